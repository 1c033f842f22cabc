"""Energy of a stretch of work, where the machine has a counter or a power sensor that this user may read."""

from __future__ import annotations

import time
from pathlib import Path

SYS = Path("/sys")


class EnergyMeter:
    """Joules since the last call. What is measured is the whole package or board, idle share included.

    RAPL's counters (/sys/class/powercap, packages only, each wrapping around at its own range) come first, then energy
    counters of hwmon, then its power sensors, whose two readings are averaged over the time between them. `source` says
    which; None where there is none, and then there are no joules.
    """

    def __init__(self, sys_root: Path = SYS) -> None:
        self.source: str | None = None
        self._counters: list[tuple[Path, int | None]] = []
        self._powers: list[Path] = []
        packages = [p for p in sorted(sys_root.glob("class/powercap/*:[0-9]*")) if p.name.count(":") == 1]
        named = {p: (_text(p / "name") or "") for p in packages}
        # psys holds the packages once more.
        rapl = [
            p / "energy_uj" for p in packages if named[p].startswith("package") and _value(p / "energy_uj") is not None
        ]
        energies = [p for p in sorted(sys_root.glob("class/hwmon/hwmon*/energy*_input")) if _value(p) is not None]
        powers = [p for p in sorted(sys_root.glob("class/hwmon/hwmon*/power*_input")) if _value(p) is not None]
        if rapl:
            self._counters = [(path, _value(path.with_name("max_energy_range_uj"))) for path in rapl]
            self.source = f"RAPL: {', '.join(named[path.parent] for path in rapl)}"
        elif energies:
            self._counters = [(path, None) for path in energies]
            self.source = f"hwmon energy: {_names(energies)}"
        elif powers:
            self._powers = powers
            self.source = f"hwmon power: {_names(powers)}"
        self._last = self._read()

    def start(self) -> None:
        """Begin a stretch."""
        self._last = self._read()

    def joules(self) -> float | None:
        """Energy since `start`; None without a source, or where it stopped answering."""
        before, after = self._last, self._read()
        if not before[1] or any(value is None for value in (*before[1], *after[1])):
            return None
        seconds = after[0] - before[0]
        pairs = [(int(a or 0), int(b or 0)) for a, b in zip(before[1], after[1], strict=True)]
        if self._powers:
            return seconds * sum((a + b) / 2 for a, b in pairs) / 1e6
        ranges = [most for _, most in self._counters]
        return sum(_since(a, b, most) for (a, b), most in zip(pairs, ranges, strict=True)) / 1e6

    def _read(self) -> tuple[float, list[int | None]]:
        paths = self._powers or [path for path, _ in self._counters]
        return time.perf_counter(), [_value(path) for path in paths]


def _since(before: int, after: int, most: int | None) -> int:
    return after - before if after >= before or most is None else after - before + most


def _names(paths: list[Path]) -> str:
    return ", ".join(f"{_text(path.parent / 'name') or path.parent.name} {path.name}" for path in paths)


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _value(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.isdigit() else None
