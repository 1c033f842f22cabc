"""What another machine is asked to do: say what it has, keep a kit, measure it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tledge.conversion.recipe import recipe_folder
from tledge.core.errors import RemoteError
from tledge.core.progress import Progress
from tledge.core.types import Json
from tledge.deployment.hosts.host import Machine
from tledge.deployment.hosts.ssh import session
from tledge.deployment.targets import DeviceTarget

_PROBE_S = 120.0
_HASH_S = 600.0
_SLACK_S = 60.0
_CHUNK_BYTES = 1 << 18
_ATTEMPTS = 2
_SPARE_BYTES = 16 << 20  # logs, and what other programs write meanwhile
_PACKAGES = {"litert": "ai-edge-litert", "onnxruntime": "onnxruntime"}
_WITH_WHEELS = {"x86_64", "amd64", "aarch64", "arm64"}


@dataclass(frozen=True)
class Probe:
    """What a machine said of itself.

    `architecture` is `uname -m`, `bits` the width of its Python's pointers, `free_bytes` the space where kits go.
    `problems` is why numpy, litert or onnxruntime cannot be imported; what is not in it can be.
    """

    python: str
    architecture: str
    bits: int
    cores: int
    free_bytes: int
    problems: dict[str, str]


@dataclass(frozen=True)
class Copied:
    """A kit that is whole in another machine's cache; `sent_bytes` is 0 where it was there already."""

    sent_bytes: int
    resumed_at: int


def probe(host: Machine) -> Probe:
    """Look at another machine, in one round trip.

    Raises:
        RemoteError: it cannot be reached, or has no Python 3.10.
    """
    with session(host, _script(), ["probe"]) as remote:
        found = remote.read(_PROBE_S)
    return Probe(**{name: found[name] for name in Probe.__dataclass_fields__})


def require_ready(host: Machine, found: Probe, runtimes: Sequence[str], target: DeviceTarget | None, size: int) -> None:
    """Refuse a machine that cannot measure.

    Args:
        host: the machine.
        found: what it said.
        runtimes: the runtimes of the files to be measured; one of them is enough.
        target: what kind of machine it has to be.
        size: bytes of the files to be measured, as far as they are known.

    Raises:
        RemoteError: another architecture than the target's, no numpy, no runtime, or not enough space.
    """
    if target is not None and target.architectures and found.architecture not in target.architectures:
        raise RemoteError(
            f"expected {' or '.join(target.architectures)} on {host.name} for {target.name}, but it is "
            f"{found.architecture}; choose another --target, or none"
        )
    usable = [name for name in runtimes if name not in found.problems]
    if "numpy" not in found.problems and usable:
        _require_space(host, found.free_bytes, size)
        return
    missing = ["numpy"] if "numpy" in found.problems else []
    missing += [] if usable else [_PACKAGES[runtimes[0]]]
    first = found.problems["numpy"] if "numpy" in found.problems else found.problems[runtimes[0]]
    # Not into the system's Python: Debian and Raspberry Pi OS refuse that.
    venv = f"`python3 -m venv ~/tledge && ~/tledge/bin/pip install numpy {_PACKAGES[runtimes[0]]}`"
    do = f"run {venv} there and pass --remote-python tledge/bin/python"
    if found.architecture not in _WITH_WHEELS or found.bits != 64:
        do = "take a 64-bit x86 or Arm system: for others there are no ready packages"
    raise RemoteError(
        f"expected {' and '.join(missing)} for {host.python} on {host.name} "
        f"(Python {found.python}, {found.architecture}, {found.bits} bit), but {first}; {do}"
    )


def copy_kit(host: Machine, kit: Path, digest: str, unpacked_bytes: int, progress: Progress) -> Copied:
    """Bring a kit into a machine's cache, going on where an earlier copy broke off.

    Args:
        host: the machine.
        kit: the zip.
        digest: its SHA-256.
        unpacked_bytes: what it takes there unpacked.
        progress: called with (what, MB done, MB in all) while bytes are sent.

    Raises:
        RemoteError: no connection, no space, another copy at work, or the bytes that arrive are others.
    """
    size = kit.stat().st_size
    for _ in range(_ATTEMPTS):  # what was left of an earlier copy may be broken in its middle: then all of it once more
        with session(host, _script(), ["receive", digest, str(size)]) as remote:
            state = remote.read(_HASH_S)
            if state.get("error") == "busy":
                raise RemoteError(f"expected to copy to {host.name}, but another copy of this kit is at work; wait")
            have = int(state["have"])
            _require_space(host, int(state["free_bytes"]), size - have + unpacked_bytes)
            if have == size:
                # All is there: nothing to send, and only an unfinished copy has still to be renamed.
                if state["whole"] or remote.read(_HASH_S)["stored"]:
                    return Copied(0, have)
                continue
            with kit.open("rb") as stream:
                stream.seek(have)
                while chunk := stream.read(_CHUNK_BYTES):
                    remote.send(chunk)
                    progress(f"copying the kit to {host.name}, MB", stream.tell() // 10**6, -(-size // 10**6))
            if remote.read(_HASH_S)["stored"]:
                return Copied(size - have, have)
    raise RemoteError(
        f"expected the kit whole on {host.name}, but other bytes arrived twice; check its disk and memory"
    )


def measure_kit(host: Machine, digest: str, arguments: Sequence[str], limit_s: float) -> Json:
    """Unpack a copied kit, run its bench, and return {code, stdout, stderr}; the unpacked kit is removed in any case.

    `code` is None when `limit_s` seconds were not enough.

    Raises:
        RemoteError: the connection or the machine failed.
    """
    with session(host, _script(), ["measure", digest, str(limit_s), *arguments]) as remote:
        return remote.read(limit_s + _SLACK_S)


def forget_kit(host: Machine, digest: str) -> None:
    """Remove a kit from a machine's cache.

    Raises:
        RemoteError: the machine cannot be reached.
    """
    with session(host, _script(), ["forget", digest]) as remote:
        remote.read(_PROBE_S)


def _require_space(host: Machine, free_bytes: int, wanted_bytes: int) -> None:
    if free_bytes < wanted_bytes + _SPARE_BYTES:
        raise RemoteError(
            f"expected {(wanted_bytes + _SPARE_BYTES) / 1e6:.0f} MB of free space under {host.cache} on {host.name}, "
            f"but there are {free_bytes / 1e6:.0f} MB; make room, or choose fewer files with --target"
        )


def _script() -> bytes:
    return (recipe_folder() / "remote" / "tledge_remote.py").read_bytes()
