"""Names from the file system: which ones tledge can write down, and how a message shows the others."""

from __future__ import annotations

import unicodedata
from pathlib import Path

# Control characters, halves of characters (a name that is not UTF-8), line and paragraph separators. Not
# `str.isprintable`: it also refuses the no-break space of macOS screenshots and the joiners of Persian and Hindi.
_UNWRITABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


def is_writable(name: str) -> bool:
    """Whether a name fits on one line of a UTF-8 file.

    Args:
        name: a file's or folder's name.
    """
    return not any(unicodedata.category(character) in _UNWRITABLE for character in name)


def shown(path: Path | str) -> str:
    """A path for a message of one line: as it is, or quoted with escapes where it cannot be written as it is.

    Args:
        path: any path.
    """
    text = str(path)
    return text if is_writable(text) else ascii(text)
