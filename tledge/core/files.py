"""Write files so that they are whole or absent."""

from __future__ import annotations

import contextlib
import csv
import errno
import glob
import hashlib
import io
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from tledge.core.dependencies import require
from tledge.core.types import Json

_CHUNK_BYTES = 1 << 20
_GZIP_WBITS = 31
# What a zip says of a member besides its content, fixed so that the archive depends on contents alone.
EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_PLAIN_FILE = 0o100644 << 16


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or absent, even through a power cut."""
    with written_whole(path, len(content)) as stream:
        stream.write(content)


@contextlib.contextmanager
def written_whole(path: Path, size_bytes: int) -> Iterator[IO[bytes]]:
    """A stream into a file that is either whole or absent, even through a power cut.

    Args:
        path: the file; it has its name once the block has ended without an error.
        size_bytes: about how many bytes it takes, for the message about a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with _naming(path, size_bytes):
            with temporary.open("wb") as stream, held(temporary):
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_stale(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left half-written in a folder, under `name` or under any name."""
    for stale in folder.glob(f".{'*' if name is None else glob.escape(name)}.partial-*"):
        if not _process_lives(stale.name.rpartition("-")[2].partition(".")[0]) and not is_held(stale):
            if stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
            else:
                stale.unlink(missing_ok=True)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Let no other process take a half-written file or folder for a leftover while the block runs.

    Numbers of processes say nothing where containers, or machines, share a folder; locks do.
    """
    own = lock(path)
    try:
        yield
    finally:
        if own is not None:
            os.close(own)


def lock(path: Path) -> int | None:
    """Lock a file or folder until what is returned is closed, or this process ends.

    Returns:
        The descriptor; None where another process holds the lock, or where there are none.
    """
    opened, _ = _locked(path)
    return opened


def _locked(path: Path) -> tuple[int | None, bool]:
    """The descriptor of a lock, if it could be had, and whether another process holds it."""
    try:
        import fcntl

        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except (OSError, ImportError):
        return None, False
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # or the file system has no locks
        os.close(opened)
        return None, error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    return opened, False


def is_held(path: Path) -> bool:
    """Whether another process has a file or folder locked."""
    opened, by_another = _locked(path)
    if opened is not None:
        os.close(opened)
    return by_another


def _process_lives(pid: str) -> bool:
    # Our own number on a file that is there before us is a predecessor's: containers count from 1 every time.
    if not pid.isdigit() or int(pid) == os.getpid():
        return False
    import psutil

    return psutil.pid_exists(int(pid))


@contextlib.contextmanager
def _naming(path: Path, size_bytes: int) -> Iterator[None]:
    """Let a full disk be told with the file that did not fit and what it takes."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(error.errno, f"{error.strerror}, and {size_bytes:,} bytes are needed", str(path)) from None


def reserve(path: Path, size_bytes: int) -> None:
    """Make a file of a size, zeros, whose room on the disk is taken; one that has this size stays as it is.

    A mapped file that the disk has no room for kills the process that writes to it.

    Raises:
        OSError: there is no room; the file is gone.
    """
    try:
        with _naming(path, size_bytes), path.open("ab") as stream:
            if stream.tell() != size_bytes:
                stream.truncate(0)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, size_bytes)
            else:
                stream.truncate(size_bytes)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically; bytes of a name that are no text stand in it as `\\udcff`, as JSON has them."""
    write_bytes(path, content.encode(errors="backslashreplace"))


def write_json(path: Path, content: Json) -> None:
    """Write a JSON object atomically, keys in the order given."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file with a header line atomically."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it to another disk."""
    try:
        target.hardlink_to(source)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)


def gzip_bytes(path: Path) -> int:
    """Size of a file after gzip, level 6, as servers and packagers take, in bytes.

    Equal content gives equal sizes on one kind of processor. Level 9 saves up to a tenth of pruned and clustered
    weights and nothing of others, and takes up to 19 s for 15 MB of them.
    """
    compressor = require("zlib_ng.zlib_ng").compressobj(6, wbits=_GZIP_WBITS)
    size = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            size += len(compressor.compress(chunk))
    return size + len(compressor.flush())


def _shrinks(content: bytes) -> bool:
    """Whether deflating pays: of float weights, it takes seconds to save 7 %."""
    middle = len(content) // 2
    sample = content[middle : middle + _CHUNK_BYTES]
    return len(zlib.compress(sample, 1)) < 0.9 * len(sample)


def write_zip(path: Path, members: Mapping[str, bytes | Path]) -> None:
    """Write a zip archive atomically; equal members give equal bytes.

    Args:
        path: the archive.
        members: from the name inside the archive to the content, or to the file that holds it.
    """
    sizes = [content.stat().st_size if isinstance(content, Path) else len(content) for content in members.values()]
    with written_whole(path, sum(sizes)) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(members):
            content = members[name]
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system, info.external_attr = _UNIX, _PLAIN_FILE
            content = content.read_bytes() if isinstance(content, Path) else content
            info.compress_type = zipfile.ZIP_DEFLATED if _shrinks(content) else zipfile.ZIP_STORED
            archive.writestr(info, content)
