"""What `robustness.py` does to files: bytes, cuts, and content that keeps its form but is not what was meant."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Damage = Callable[[bytes, random.Random], bytes]


def flipped(content: bytes, chance: random.Random) -> bytes:
    """One to eight bits are others."""
    made = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        made[chance.randrange(len(made))] ^= 1 << chance.randrange(8)
    return bytes(made)


def cut(content: bytes, chance: random.Random) -> bytes:
    """The end is missing."""
    return content[: chance.randrange(len(content))]


def spliced(content: bytes, chance: random.Random) -> bytes:
    """Some bytes are gone, repeated or random."""
    start, length = chance.randrange(len(content)), chance.choice((1, 4, 64, 4096))
    middle = chance.choice((b"", content[start : start + length] * 2, chance.randbytes(length), b"\0" * length))
    return content[:start] + middle + content[start + length :]


def replaced(content: bytes, chance: random.Random) -> bytes:
    """All of it is something else: nothing, noise, zeros, another format, a page of an error."""
    return chance.choice(
        (
            *(b"", chance.randbytes(200), b"\0" * 4096, b"PK\x03\x04" + chance.randbytes(60), b"\x89HDF\r\n\x1a\n"),
            *(b"<html><body>404 Not Found</body></html>", b"version https://git-lfs.github.com/spec/v1\n"),
            *(b"\xff\xfe" + content[:2000].decode("latin-1").encode("utf-16-le"), b"[" * 100_000, b"9" * 100_000),
        )
    )


def marked(content: bytes, chance: random.Random) -> bytes:
    """Texts as editors and systems leave them: a byte order mark, other line ends, bytes that are no UTF-8."""
    place = chance.randrange(len(content) + 1)
    return chance.choice(
        (
            b"\xef\xbb\xbf" + content,
            content.replace(b"\n", b"\r\n"),
            content.replace(b"\n", b"\r"),
            content[:place] + chance.choice((b"\xff", b"\0", b"\xed\xa0\x80", b"\x1b[2J", b"\n")) + content[place:],
        )
    )


HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 10**9, 10**25, 1e308, float("nan"), float("inf"), "", "x", "a\nb", "\x1b[2J", "\u202e"),
    *([], {}, [[]], "../../etc/passwd", "9" * 5000, "::error::x", "\ud800", "/dev/zero", "CON", "-", "a" * 300),
)


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in parsed JSON."""
    yield way
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*way, key))


def changed_json(content: bytes, chance: random.Random) -> bytes:
    """One to three fields are gone, repeated, of another type, nested deeper, or hold what nobody means."""
    value = json.loads(content)
    nested: dict[str, str] = {}
    for _ in range(chance.randint(1, 3)):
        ways = [way for way in places(value) if way]
        if not ways:
            break
        *way, last = chance.choice(ways)
        inner = value
        for key in way:
            inner = inner[key]
        drawn = chance.random()
        if drawn < 0.15:
            del inner[last]
        elif drawn < 0.2:
            depth = chance.choice((10, 70, 900))
            mark = f"nested {len(nested)}"  # deeper than this module's own encoder goes
            nested[json.dumps(mark)] = "[" * depth + json.dumps(inner[last]) + "]" * depth
            inner[last] = mark
        else:
            inner[last] = copy.deepcopy(chance.choice(HOSTILE))
    text = json.dumps(value)
    for mark, deep in reversed(nested.items()):
        text = text.replace(mark, deep)
    if chance.random() < 0.05 and '"' in text:  # a key twice: only text can have it
        key = chance.choice(text.split('"')[1::2])
        text = text.replace(f'"{key}":', f'"{key}": 1, "{key}":', 1)
    return text.encode("utf-8", "surrogatepass")


def changed_lines(content: bytes, chance: random.Random) -> bytes:
    """Lines are gone, repeated, exchanged, or hold something else; for TOML, lists of classes, lines of JSON."""
    lines = content.split(b"\n")
    how, first, second = chance.randrange(4), chance.randrange(len(lines)), chance.randrange(len(lines))
    if how == 0:
        del lines[first]
    elif how == 1:
        lines.insert(second, lines[first])
    elif how == 2:
        name, sign, _ = lines[first].partition(b"=")
        values = (b"nan", b"-inf", b"1e999", b"9" * 5000, b"''", b"[]", b"{}", b"-1", b"0", b'"\x1b[2J"', b"[[[[]]]]")
        lines[first] = name + sign + b" " + chance.choice(values) if sign else chance.choice(values)
    else:
        lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


def changed_csv(content: bytes, chance: random.Random) -> bytes:
    """Rows are gone, repeated or exchanged in a cell."""
    rows = [line.split(b",") for line in content.splitlines()]
    if len(rows) < 3:
        return content + b"x,y\n"
    how, first, second = chance.randrange(4), chance.randrange(1, len(rows)), chance.randrange(1, len(rows))
    if how == 0:
        del rows[first]
    elif how == 1:
        rows.append(rows[first])
    elif how == 2:
        cell = chance.randrange(len(rows[first]))
        rows[first][cell], rows[second][cell] = rows[second][cell], rows[first][cell]
    else:
        odd = (b"", b"\xff", b"\0", b"a" * 200_000, b'"', b"nan", b"-1", b"1e999", b"../../etc/passwd", b"\x1b[2J")
        rows[first][chance.randrange(len(rows[first]))] = chance.choice(odd)
    return b"".join(b",".join(row) + b"\n" for row in rows)


_TEXTS = (".json", ".csv", ".txt", ".toml", ".jsonl")
_OF_CONTENT: dict[str, Damage] = {
    ".json": changed_json,
    ".csv": changed_csv,
    ".txt": changed_lines,
    ".toml": changed_lines,
    ".jsonl": changed_lines,
}


def damage(path: Path, chance: random.Random) -> str:
    """Damage a file; returns how, or "nothing". Archives are damaged in a member as well, with digests that fit again.

    The file may be a link to one that must stay as it is: it is replaced, never written into.
    """
    content = path.read_bytes()
    ways: list[Damage] = [flipped, cut, spliced, replaced]
    if path.suffix in _TEXTS:
        ways += [marked, *[_OF_CONTENT[path.suffix]] * 6]
    way = chance.choice(ways)
    if path.suffix in (".keras", ".npz") and chance.random() < 0.5:
        return _damaged_member(path, chance)
    made = way(content, chance) if content else b"x"
    path.unlink()
    path.write_bytes(made)
    return way.__name__ if made != content else "nothing"


def _damaged_member(path: Path, chance: random.Random) -> str:
    """One member of a zip is damaged, gone, there twice, or has a hostile name; its checksum is right."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = chance.choice(sorted(members))
    path.unlink()
    if chance.random() < 0.15:
        hostile = chance.choice(("../../escaped", "/tmp/escaped", "a" * 300, "a\nb", "\u202e.npy", ""))
        members[hostile] = members.pop(chosen) if chance.random() < 0.5 else members[chosen]
        how = "renamed"
    elif chance.random() < 0.15:
        del members[chosen]
        how = "removed"
    else:
        ways: list[Damage] = [flipped, cut, spliced, replaced, *[changed_json] * (4 if ".json" in chosen else 0)]
        way = chance.choice(ways)
        members[chosen] = way(members[chosen], chance)
        how = way.__name__
    with zipfile.ZipFile(path, "w") as archive:
        for name, inner in members.items():
            archive.writestr(zipfile.ZipInfo(name), inner)
    return f"{how} {chosen}"


def misplaced(path: Path, chance: random.Random) -> str:
    """Something else stands where the file should be: nothing, a folder, a link to nowhere or to itself, a pipe."""
    how = chance.choice(("missing", "folder", "dangling", "loop", "pipe", "device"))
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "dangling":
        path.symlink_to(path.parent / "nowhere")
    elif how == "loop":
        path.symlink_to(path)
    elif how == "pipe":
        if path.suffix in (".keras", ".h5", ".tflite", ".onnx"):
            os.mkfifo(path)
        else:  # texts and pictures may come through pipes, and then it is for whoever made one to write into it
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(os.path.relpath(path))
    elif how == "device":
        path.symlink_to("/dev/null")
    return how
