"""Names from the file system: which ones tledge can write down, and how a message shows the others."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

# Control characters, halves of characters (a name that is not UTF-8), line and paragraph separators. Not
# `str.isprintable`: it also refuses the no-break space of macOS screenshots and the joiners of Persian and Hindi.
_UNWRITABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


def is_writable(name: str) -> bool:
    """Whether a name fits on one line of a UTF-8 file.

    Args:
        name: a file's or folder's name.
    """
    if name.isascii():
        return name.isprintable()
    return not any(unicodedata.category(character) in _UNWRITABLE for character in name)


def shown(path: Path | str) -> str:
    """A path for a message of one line: as it is, or quoted with escapes where it cannot be written as it is.

    Args:
        path: any path.
    """
    text = str(path)
    return text if is_writable(text) else ascii(text)


def normal(name: str) -> str:
    """A name in Unicode's normal form C, in which names are compared: macOS writes some letters as two characters."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def same_name(name: str, names: Iterable[str]) -> str | None:
    """The one of some names that is the same, in normal form; else the only one that differs in case alone."""
    known = list(names)
    if name in known:
        return name
    exact = [one for one in known if normal(one) == normal(name)]
    alike = exact or [one for one in known if normal(one).casefold() == normal(name).casefold()]
    return alike[0] if exact or len(alike) == 1 else None


def counted(count: int, what: str) -> str:
    """A number and what it counts: 1 image, 2,000 images."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def listed(names: Iterable[str], most: int = 6) -> str:
    """Names for a message, at most so many: a, b and 3 more."""
    known = [shown(name) for name in names]
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more
