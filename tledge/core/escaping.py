"""Text from files and other machines, escaped for where it goes: no name becomes a command of what displays it.

One function for each kind of output; everything that is printed or written in one of these kinds goes through it. XML
and HTML are escaped by their libraries, which leave characters that change how a line looks: `visible` goes before.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

# Control characters; embeddings, overrides and isolates, which show text in another order than it has; marks and blanks
# without a width; line and paragraph separators; halves of characters. Not the joiners of Persian and Hindi.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
# What starts a workflow command of GitHub Actions: `::` at the start of a line, and the older `##[` anywhere in one.
_COMMAND = re.compile(r"^(\s*):(?=:)|##(?=\[)")
_MARKDOWN = re.compile(r"[\\\[|]|<(?=[A-Za-z/!?])")
_TYPOGRAPHY = {
    "–": "-",
    "—": "-",
    "−": "-",
    "→": "->",
    "×": "x",
    "…": "...",
    "·": "-",
    "°": " deg ",
    "„": '"',
    "“": '"',
}


def visible(text: str) -> str:
    """Text on one line, in the order that it has: what could not be seen is written as Python does (`\\x1b`)."""
    return _HIDDEN.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character) or ascii(character)[1:-1]


def terminal(text: str) -> str:
    """One line of a terminal or of a job's log: no escape sequence, and no command of GitHub Actions."""
    return _COMMAND.sub(lambda found: found[0].replace(":", "\\:").replace("##", "#\\#"), visible(text))


def markdown(text: str) -> str:
    """Text inside a line or a cell of Markdown: no cell, link, image or HTML begins in it; emphasis may."""
    shown = visible(" ".join(text.splitlines()))
    return _MARKDOWN.sub(lambda found: "&lt;" if found[0] == "<" else f"\\{found[0]}", shown)


def workflow_message(text: str) -> str:
    """The message of a workflow command of GitHub Actions, which ends with the line."""
    escaped = "\n".join(visible(line) for line in text.split("\n"))
    return escaped.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def workflow_property(text: str) -> str:
    """A property of such a command, such as its title, which also ends with a comma or a colon."""
    return workflow_message(text).replace(":", "%3A").replace(",", "%2C")


def json_text(content: Any, indent: int | None = 2) -> str:
    """JSON for people, programs and logs: readable letters, all others escaped; on one line where `indent` is None.

    Raises:
        ValueError: a number is NaN or infinite, which JSON has no word for.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False).replace("##[", "#\\u0023[")
    return _HIDDEN.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def encodable(error: UnicodeError) -> tuple[str, int]:
    """Handler of `codecs.register_error` for outputs other than UTF-8: typography becomes ASCII, the rest escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    plain = "".join(_TYPOGRAPHY.get(one) or _decomposed(one) for one in found)
    return plain, error.end


def _decomposed(character: str) -> str:
    """`\\xe4` and the like, as Python shows them; a letter without its marks would be another name."""
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("ascii", "backslashreplace").decode()
