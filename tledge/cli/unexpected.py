"""The last resort: what the command line says and keeps of an exception that nobody foresaw.

That is a fault of tledge and neither a failed gate (1) nor bad input (2), so it has an exit code of its own, 3. The
traceback goes into a file to send in. It names modules and lines, not what was worked on: paths and words of the
command line are masked, values of variables are not in it, and neither is a picture.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
import sysconfig
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from tledge.cli.interrupts import behind
from tledge.core.environment import versions
from tledge.core.temporary import temporary_place

_PACKAGE = Path(__file__).parents[1]
# A quoted text with a slash, or a word with one; names of files of the kinds that people bring.
_PATHS = re.compile(
    r"""(?P<quote>['"])(?:(?!(?P=quote)).)*[/\\](?:(?!(?P=quote)).)*(?P=quote)|[^\s'"(),;]*[/\\][^\s'"(),;]*"""
)
_FILES = re.compile(
    r"[^\s'\"/]+\.(?:jpe?g|png|webp|gif|bmp|tiff?|avif|heic|npz|npy|zip|csv|tsv|jsonl?|toml|txt|keras|h5|hdf5|onnx|ort|tflite|pb)\b",
    re.IGNORECASE,
)
_PLAIN_VALUE = re.compile(r"[-+.\d]+")


def told(error: BaseException, command: str) -> str:
    """Write the report and say in one line what happened.

    Args:
        error: what was raised.
        command: the command's name, without what it was given.

    Returns:
        What was being done, with which file, and where the report is: in the working directory, or where that cannot
        be written in the directory of temporary files.
    """
    doing = _doing(error)
    kept = _kept(_report(error, command))
    found = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    where = f"send in {kept}, which holds versions and the traceback" if kept else "no report of it could be written"
    return f"an error of tledge itself while `{command}` was at {doing} ({found}); {where}"


def _doing(error: BaseException) -> str:
    """The innermost function of tledge on the way to the error, and the innermost file that one of them held."""
    frames = [
        frame
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if Path(frame.f_code.co_filename).is_relative_to(_PACKAGE)
    ]
    if not frames:
        return "its start"
    code = frames[-1].f_code
    place = f"{code.co_name} ({Path(code.co_filename).relative_to(_PACKAGE.parent)})"
    files = [file for frame in reversed(frames) for file in _files_of(frame)]
    return f"{place} with {files[0]}" if files else place


def _files_of(frame: FrameType) -> list[Path]:
    """Paths among the variables of a function, files first."""
    paths = [value for value in frame.f_locals.values() if isinstance(value, Path)]
    return sorted(paths, key=lambda path: not _is_file(path))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no name that a system can have
        return False


def _report(error: BaseException, command: str) -> str:
    lines = [
        "tledge met an error that it did not foresee. Please send in this file as it is; look through it before.",
        "",
        f"command: {command}{_options()}",
        f"time: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"system: {platform.system()} {platform.machine()}, stdout {sys.stdout.encoding if sys.stdout else 'closed'}",
        *(f"{name}: {version}" for name, version in versions().items()),
    ]
    for one in reversed(list(behind(error))):
        lines += ["", f"{type(one).__module__}.{type(one).__qualname__}: {_masked(str(one))}"]
        lines += [
            f"  {_module(frame.filename)}:{frame.lineno} {frame.name}: {_masked(frame.line or '')}"
            for frame in traceback.extract_tb(one.__traceback__)[-60:]
        ]
    return "\n".join(lines) + "\n"


def _options() -> str:
    """Options and numbers of the command line; everything else could be private."""
    words = [word.partition("=")[0] if word.startswith("-") else word for word in sys.argv[2:]]
    return "".join(f" {word if word.startswith('-') or _PLAIN_VALUE.fullmatch(word) else '…'}" for word in words)


def _masked(text: str) -> str:
    text = text[:2000]
    private = sorted({part for word in sys.argv[2:] for part in (word, Path(word).name) if len(part) > 2}, key=len)
    for word in reversed(private):
        if not word.startswith("-"):
            text = text.replace(word, "…")
    return _FILES.sub("…", _PATHS.sub("…", text))


def _module(file: str) -> str:
    """A module's file from its package on, so that nobody's home is in the report."""
    for root in (
        *map(Path, {sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib")}),
        _PACKAGE.parent,
    ):
        if Path(file).is_relative_to(root):
            return str(Path(file).relative_to(root))
    return Path(file).name


def _kept(report: str) -> Path | None:
    name = f"tledge-error-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    for folder in (Path.cwd, temporary_place):
        # A full disk, a directory that is gone, one that is read-only: then the other one.
        with contextlib.suppress(OSError):
            path = folder() / name
            with path.open("x", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(report)
            return path
    return None
