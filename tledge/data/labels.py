"""A file of class names, one a line, in the order of a model's outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tledge.core.errors import DataError
from tledge.data.names import is_writable

_LONGEST_SHOWN = 60


def read_labels_file(path: Path) -> tuple[str, ...]:
    """Read class names, one per line.

    Raises:
        DataError: unreadable, not UTF-8, fewer than two, an empty line, or a name twice.
    """
    try:
        # An editor's byte order mark is no part of the first class.
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise DataError(
            f"expected class names, one a line, in {path}, but it cannot be read ({reason}); check --labels"
        ) from None
    return require_class_names(lines, str(path))


def require_class_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Check names of classes, in the order of a model's outputs.

    Args:
        names: the names.
        where: they are from, for the message.

    Raises:
        DataError: fewer than two, one that is empty or does not fit on a line, or a name twice.
    """
    for number, name in enumerate(names, 1):
        if not name.strip() or not is_writable(name):
            raise DataError(
                f"expected a class name in each line of {where}, but line {number} is {_cut(name)!r}; correct it"
            )
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise DataError(f"expected each class once in {where}, but {_cut(repeated[0])!r} is there twice; remove one")
    if len(names) < 2:
        raise DataError(
            f"expected at least two classes in {where}, but it names only {_cut(names[0])!r}; add the others"
        )
    return tuple(names)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…"
