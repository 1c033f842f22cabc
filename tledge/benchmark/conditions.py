"""What else goes on while latency is measured: other programs, a clock that changes, heat; and what energy it takes."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tledge.runs.bench_json import Condition, Conditions

LOAD_S = 1.0
BUSY_CORES = 0.3
SYS = Path("/sys")
_LOOK_S = 0.5  # shorter, and the kernel's ticks of 10 ms blur the share
_BUSY_LOOKS = 0.2
_STOLEN_SHARE = 0.02
_CLOCK_RATIO = 1.1
_DRIFT = 1.05
_VCGENCMD_NOW = 0xF


def background_load() -> tuple[float, list[str]]:
    """How many cores are at work while this process waits, and a note if too many are.

    The load average would count our own stages before.
    """
    import psutil

    busy_cores = float(psutil.cpu_percent(interval=LOAD_S)) / 100 * (psutil.cpu_count() or 1)
    note = f"other work kept {busy_cores:.1f} cores busy at the start: latencies may be high"
    return busy_cores, [note] if busy_cores > BUSY_CORES else []


def condition(sys_root: Path = SYS) -> Condition:
    """Governor, frequency, temperature and throttling now."""
    policies = sorted(sys_root.glob("devices/system/cpu/cpu[0-9]*/cpufreq"))
    governors = sorted({line for line in (_read(policy / "scaling_governor") for policy in policies) if line})
    temperatures = {}
    for zone in sorted(sys_root.glob("class/thermal/thermal_zone*")):
        kind, value = _read(zone / "type"), _number(zone / "temp")
        if kind and value is not None:
            temperatures[f"{zone.name} {kind}"] = value / 1000
    counts = _numbers(sys_root.glob("devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"))
    holding = [
        state
        for device in sys_root.glob("class/thermal/cooling_device*")
        if (kind := _read(device / "type")) and (kind == "Processor" or "cpufreq" in kind)
        if (state := _number(device / "cur_state")) is not None
    ]
    return Condition(
        governor=", ".join(governors) or None,
        frequency_mhz=tuple(round(khz / 1000) for khz in _numbers(p / "scaling_cur_freq" for p in policies)) or None,
        temperature_c=temperatures or None,
        throttled_flags=_vcgencmd_throttled(),
        throttle_count=sum(counts) if counts else None,
        cooling_state=sum(holding) if holding else None,
    )


def throttle_notes(before: Condition, after: Condition) -> list[str]:
    """What two conditions say about throttling between them; they may come from another machine."""
    notes = []
    first, last = before.throttle_count, after.throttle_count
    if first is not None and last is not None and last > first:
        notes.append(f"the processor was throttled for heat {last - first} times while measuring: latencies are high")
    start, end = _flags(before.throttled_flags), _flags(after.throttled_flags)
    # Bits 0-3 are now, the same four from 16 on are since the board started.
    if (start | end) & _VCGENCMD_NOW or end & ~start:
        notes.append(f"the board says that it was throttled (vcgencmd {start:#x} before, {end:#x} after)")
    if before.cooling_state or after.cooling_state:
        notes.append("the kernel held the processor's clock down to cool it: latencies are high")
    if after.governor != before.governor:
        notes.append(f"the governor changed from {before.governor} to {after.governor}")
    return notes


def load_notes(other_cores: float | None) -> list[str]:
    """A note where other work kept too many cores busy in the mean; None where that is not known."""
    if other_cores is None or other_cores <= BUSY_CORES:
        return []
    return [f"other work kept {other_cores:.1f} cores busy while measuring: latencies may be high"]


class Watch:
    """Looks, between rounds, at what the rest of the machine does.

    `pids` are the processes that measure; they and this one are not other work.
    """

    def __init__(self, pids: Sequence[int], sys_root: Path = SYS) -> None:
        import psutil

        self._sys_root = sys_root
        self._own = [psutil.Process(), *(psutil.Process(pid) for pid in pids)]
        self._before = condition(sys_root)
        self._last = self._read()
        self._looks: list[tuple[float, float, float]] = []  # seconds, other cores, stolen cores
        self._clock_mhz: list[int] = []

    def look(self, *, last: bool = False) -> None:
        """Note what happened since the last look, if that is long enough ago to tell."""
        now = self._read()
        seconds = now[0] - self._last[0]
        if seconds < (_LOOK_S / 5 if last else _LOOK_S):
            return
        busy, own, stolen = (now[i] - self._last[i] for i in (1, 2, 3))
        self._looks.append((seconds, max(0.0, busy - own) / seconds, stolen / seconds))
        self._last = now
        frequencies = _numbers(self._sys_root.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
        if frequencies:  # the busiest core's; those that wait may be slow without any harm
            self._clock_mhz.append(round(max(frequencies) / 1000))

    def result(self, drift: float | None) -> tuple[Conditions, list[str]]:
        """What was seen, for bench.json, and notes on what may have spoilt the numbers.

        Args:
            drift: p50 of the last third of the rounds over that of the first, None if there were too few.
        """
        after = condition(self._sys_root)
        total = sum(look[0] for look in self._looks)
        other = sum(look[0] * look[1] for look in self._looks) / total if total else None
        stolen = sum(look[0] * look[2] for look in self._looks) / total if total else None
        busy = sum(look[1] > BUSY_CORES for look in self._looks)
        seen = Conditions(
            before=self._before,
            after=after,
            looks=len(self._looks),
            other_cores=None if other is None else round(other, 2),
            looks_with_other_work=busy,
            stolen_cores=None if stolen is None else round(stolen, 3),
            clock_mhz=(min(self._clock_mhz), max(self._clock_mhz)) if self._clock_mhz else None,
            drift=None if drift is None else round(drift, 4),
        )
        notes = throttle_notes(self._before, after)
        if other is not None and (other > BUSY_CORES or busy > _BUSY_LOOKS * len(self._looks)):
            notes.append(
                f"other work kept {other:.1f} cores busy while measuring (above {BUSY_CORES:g} in {busy} of "
                f"{len(self._looks)} looks): latencies may be high"
            )
        if stolen is not None and stolen > _STOLEN_SHARE:
            notes.append(f"the hypervisor gave {stolen:.2f} cores to others while measuring: latencies may be high")
        if self._clock_mhz and max(self._clock_mhz) > _CLOCK_RATIO * min(self._clock_mhz):
            low, high = min(self._clock_mhz), max(self._clock_mhz)
            notes.append(f"the clock of the fastest core went between {low} and {high} MHz while measuring")
        return seen, notes

    def _read(self) -> tuple[float, float, float, float]:
        """Now, and seconds of processor time since the start: all, our own, stolen by a hypervisor."""
        import psutil

        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        stolen = getattr(times, "steal", 0.0)
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # Linux counts them as user too
        own = 0.0
        for process in self._own:
            mine = process.cpu_times()
            own += mine.user + mine.system
        return time.monotonic(), sum(times) - idle - stolen - guests, own, stolen


def drift_notes(ratio: float | None) -> list[str]:
    """A note where latencies rose or fell too much from the first to the last third of the rounds."""
    if ratio is None or 1 / _DRIFT <= ratio <= _DRIFT:
        return []
    changed = f"{abs(100 * (ratio - 1)):.0f} % {'higher' if ratio > 1 else 'lower'}"
    return [f"latencies were {changed} in the last third of the rounds than in the first: the machine's speed drifted"]


def _flags(value: str | None) -> int:
    try:
        return int(str(value), 16)
    except ValueError:  # None, where there is no vcgencmd
        return 0


def _vcgencmd_throttled() -> str | None:
    """A Raspberry Pi's flags, such as 0x50000; None elsewhere."""
    if shutil.which("vcgencmd") is None:
        return None
    try:
        told = subprocess.run(["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=5, check=False)
        value = told.stdout.strip().partition("=")[2]
        return hex(int(value, 16))
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text and text.lstrip("-").isdigit() else None


def _numbers(paths: Iterable[Path]) -> list[int]:
    return [value for value in map(_number, paths) if value is not None]


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
        named = {p: (_read(p / "name") or "") for p in packages}
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
    return ", ".join(f"{_read(path.parent / 'name') or path.parent.name} {path.name}" for path in paths)


def _value(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text and text.isdigit() else None
