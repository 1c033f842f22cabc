"""An Android device behind the system's adb."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tledge.core.errors import MissingDependencyError, RemoteError, SettingsError
from tledge.deployment.hosts.host import BOOTSTRAP, Access

PLACE = "/data/local/tmp"  # the one folder where adb's user may write and run programs
_LIST_S = 30.0
_ADDRESS = re.compile(r"adb(?::(?P<serial>[\w.\[][\w.:\[\]%-]*))?", re.ASCII)
_ADB_COMPLAINS = ("adb: ", "error: ")
_STATES = {
    "unauthorized": "it does not trust this machine; unlock it and allow USB debugging",
    "offline": "it is offline; unplug it, plug it in again, or restart it",
}


@dataclass(frozen=True)
class AdbHost:
    """An Android device that adb lists as ready. `python` is the interpreter there, a name or a path."""

    serial: str
    python: str
    without_python = (
        "give Google's program for TFLite files with --benchmark-model PATH, or say where Python 3.10 is with "
        "--remote-python"
    )

    @property
    def on(self) -> str:
        """Its address, with the serial number however it was given."""
        return f"adb:{self.serial}"

    @property
    def name(self) -> str:
        """How messages and tables name it."""
        return self.on

    @property
    def by_hand(self) -> str:
        """A command to try."""
        return f"adb -s {self.serial} shell"

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The local command that runs Python there; -T keeps the bytes of stdin and stdout as they are."""
        words = shlex.join([self.python, "-c", BOOTSTRAP, *arguments])
        return ["adb", "-s", self.serial, "shell", "-T", f"TMPDIR={PLACE} {words}"]

    def refusal(self, code: int, lines: Sequence[str]) -> str | None:
        """What adb itself complains about; None where it did its part."""
        said = [line for line in lines if line.startswith(_ADB_COMPLAINS)]
        if not said or not code:
            return None
        return f"expected {self.name} to answer, but {said[-1]}; check its cable and `adb devices`"

    def shell(self, command: str, limit_s: float) -> str:
        """Run a command in its shell and return what it printed, both streams.

        Raises:
            RemoteError: it failed, took longer than `limit_s` seconds, or the device is gone.
        """
        return self._adb(["shell", "-T", command], f"`{command.split()[0]}`", limit_s)

    def push(self, source: Path, target: str, limit_s: float) -> None:
        """Copy a file there.

        Raises:
            RemoteError: as `shell`; also where its storage is full.
        """
        self._adb(["push", str(source), target], f"`adb push {source.name}`", limit_s)

    def _adb(self, arguments: Sequence[str], what: str, limit_s: float) -> str:
        try:
            done = subprocess.run(
                ["adb", "-s", self.serial, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=max(limit_s, 1.0),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RemoteError(
                f"expected {what} on {self.name} to end in time, but it did not; allow more with --time-limit"
            ) from None
        said = done.stdout.decode(errors="replace")
        if done.returncode == 0:
            return said
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        if (refused := self.refusal(done.returncode, lines)) is not None:
            raise RemoteError(refused)
        reason = lines[-1] if lines else "it said nothing"
        raise RemoteError(
            f"expected {what} on {self.name} to work, but it ended with {done.returncode}: {reason[:200]}"
        )

    @classmethod
    def reach(cls, on: str, access: Access) -> AdbHost:
        """The device that `adb` (the only one there is) or `adb:SERIAL` means.

        Raises:
            SettingsError: another address, or `python` is no name.
            MissingDependencyError: there is no adb here.
            RemoteError: no device, several and no serial number, or one that is not ready.
        """
        python = access.remote_python
        found = _ADDRESS.fullmatch(on)
        if found is None:
            raise SettingsError(
                f"expected --on as adb or adb:SERIAL, but got {on!r}; `adb devices` lists serial numbers"
            )
        if not python.strip() or python.startswith("-"):
            raise SettingsError(f"expected --remote-python as a command or a path, but got {python!r}; change it")
        if shutil.which("adb") is None:
            raise MissingDependencyError(
                "expected adb on this machine, but there is none; install Android's platform tools (Debian: adb)"
            )
        states = _devices()
        serial = found["serial"]
        if not states:
            raise RemoteError("expected an Android device, but adb lists none; plug one in and allow USB debugging")
        listed = ", ".join(sorted(states))
        if serial is None and len(states) > 1:
            raise RemoteError(f"expected one Android device, but adb lists {listed}; choose with --on adb:SERIAL")
        if serial is not None and serial not in states:
            raise RemoteError(
                f"expected the Android device {serial}, but adb lists {listed}; correct the serial number"
            )
        chosen = serial or next(iter(states))
        if states[chosen] != "device":
            why = _STATES.get(states[chosen], f"adb says that it is {states[chosen]}; look at it")
            raise RemoteError(f"expected the Android device {chosen} to be ready, but {why}")
        return cls(chosen, python)


def _devices() -> dict[str, str]:
    """State by serial number."""
    try:
        done = subprocess.run(["adb", "devices"], capture_output=True, text=True, timeout=_LIST_S, check=False)
    except subprocess.TimeoutExpired:
        raise RemoteError("expected `adb devices` to end, but it hangs; run `adb kill-server` and try again") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RemoteError(f"expected `adb devices` to list devices, but it failed: {reason}")
    # Before the list, a starting server prints lines that begin with an asterisk.
    _, _, listed = done.stdout.partition("List of devices attached")
    pairs = (line.split("\t") for line in listed.splitlines() if "\t" in line)
    return {serial.strip(): state.split()[0] for serial, state in pairs if state.split()}
