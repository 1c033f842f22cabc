"""Does anything but one clear line come of damaged files, full disks and killed processes? It can be repeated.

    python benchmarks/robustness.py RUN --log LOG.jsonl [--seed N] [--minutes M] [--kills SHARE] [--summary FILE.csv]
    python benchmarks/robustness.py RUN --log LOG.jsonl --plant KIND        # must find something

RUN is a finished run, which is only read: each case works on a copy of it. Case number n of a seed is always the same
one. LOG gets a line for each case and is gone on with where it ends. A case damages one file (bits, bytes, a cut,
fields of JSON, cells of CSV) and asks a command, fills the disk while a command works, or kills a command with all its
processes at a random moment and asks the next one. What counts as a fault:

- traceback: a traceback on stderr, or more than one line of error;
- code: an exit code other than 0, 1, 2, 3, 130 and 143, or 1 where no gate can have failed;
- unforeseen: exit code 3;
- silent: a file that the manifest or a sidecar describes is another one, and `doctor RUN` calls the run whole;
- late: no end within the time limit;
- leftover: a half-written file that the next command leaves there.

`--plant KIND` makes tledge wrong in that way, in the processes of this campaign alone. A campaign that finds nothing
there is worth nothing. Full disks need a tmpfs, hence root; without it they are left out, which the summary says.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 120.0
PLANTS = ("traceback", "code", "unforeseen", "silent", "late", "leftover")
# Files whose content something in the run describes.
BOUND = ("run.json", "split.csv", "labels.txt", "model.keras", "export/")
# Runs in the process of a case before the command; each makes tledge wrong in one way.
PLANTED = {
    "traceback": "import tledge.cli as c\ndef told(m, k): raise RuntimeError(m)\nc._stop = told",
    "code": "import tledge.cli as c\nwas = c._stop\nc._stop = lambda m, k: was(m, 1 if k == 2 else k)",
    "unforeseen": "import tledge.core.records as r\nwas = r.parse_json\ndef parse(b):\n    try: return was(b)\n"
    "    except ValueError as e: raise LookupError(str(e))\nr.parse_json = parse",
    "silent": "import tledge.runs.manifest as m\nm._difference = lambda *a: ''\n"
    "import tledge.runtimes.files as f\nf.require_as_described = lambda p: None\n"
    "import tledge.reporting.run_health as h\nh.require_as_described = lambda p: None",
    "late": "import time, tledge.core.records as r\nwas = r.parse_json\ndef parse(b):\n    try: return was(b)\n"
    "    except ValueError: time.sleep(999)\nr.parse_json = parse",
    "leftover": "import pathlib\npathlib.Path.unlink = lambda *a, **k: None\n"
    "import tledge.runs.rundir as d\nd.remove_stale = lambda *a, **k: None",
}


@dataclass(frozen=True)
class Case:
    """What was done and what came of it; `faults` is empty where all went right."""

    number: int
    kind: str
    what: str
    command: str
    code: int
    seconds: float
    faults: tuple[str, ...]
    said: str


def ended(words: list[str], cwd: Path, plant: str, kill_after: float | None = None) -> tuple[int, str, float]:
    """Exit code, stderr and seconds of a command in a process group of its own; -9 where it was killed on purpose."""
    code = PLANTED.get(plant, "") + "\nimport sys; from tledge.__main__ import main; sys.argv[0] = 'tledge'; main()"
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cwd / ".cache"), "TMPDIR": str(cwd)},
    )
    try:
        _, told = process.communicate(timeout=LIMIT_S if kill_after is None else kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, told = process.communicate()
        return (124 if kill_after is None else -9), told.decode(errors="replace"), time.monotonic() - started
    return process.returncode, told.decode(errors="replace"), time.monotonic() - started


def faults_of(code: int, told: str, may_fail: bool) -> list[str]:
    """What is wrong with how a command ended."""
    found = []
    lines = [line for line in told.splitlines() if line.startswith("tledge: ")]
    if "Traceback (most recent call last)" in told or (code == 2 and not lines):
        found.append("traceback")
    if code == 124:
        found.append("late")
    elif code == 3:
        found.append("unforeseen")
    elif code not in (0, 1, 2, 130, 143) or (code == 1 and not may_fail):
        found.append("code")
    return found


# -- damage ------------------------------------------------------------------------------------------------------------


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


HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**9, 10**25, 1e308, float("nan"), float("inf"), "", "x", "a\nb", "\x1b[2J", "\u202e"),
    *([], {}, [[]], "../../etc/passwd", "9" * 5000, "::error::x"),
)


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in parsed JSON."""
    yield way
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*way, key))


def changed_json(content: bytes, chance: random.Random) -> bytes:
    """One to three fields are gone, of another type, or hold what nobody means."""
    value = json.loads(content)
    for _ in range(chance.randint(1, 3)):
        ways = [way for way in places(value) if way]
        if not ways:
            break
        *way, last = chance.choice(ways)
        inner = value
        for key in way:
            inner = inner[key]
        if chance.random() < 0.2:
            del inner[last]
        else:
            inner[last] = chance.choice(HOSTILE)
    return json.dumps(value).encode()


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
        rows[first][chance.randrange(len(rows[first]))] = chance.choice((b"", b"\xff", b"\0", b"a" * 200_000, b'"'))
    return b"".join(b",".join(row) + b"\n" for row in rows)


def damage(path: Path, chance: random.Random) -> str:
    """Damage a file; returns how."""
    content = path.read_bytes()
    ways: list[Callable[[bytes, random.Random], bytes]] = [flipped, cut, spliced]
    if path.suffix == ".json":
        ways += [changed_json] * 6
    elif path.suffix in (".csv", ".txt"):
        ways += [changed_csv] * 6
    way = chance.choice(ways)
    made = way(content, chance) if content else b"x"
    # Files may be links to those of the run that is only read.
    path.unlink()
    path.write_bytes(made)
    return f"{way.__name__} {path.name}" if made != content else "nothing"


# -- cases -------------------------------------------------------------------------------------------------------------


def copied(run: Path, folder: Path) -> Path:
    """A run whose files are links, so that a copy costs nothing; damage replaces a file and never writes into one."""
    target = folder / "run"
    shutil.copytree(run, target, copy_function=os.link if run.stat().st_dev == folder.stat().st_dev else shutil.copy2)
    return target


def images_of(run: Path) -> Path:
    """The folder of a run's images, which a copy of the run elsewhere does not lead to."""
    root: str = json.loads((run / "run.json").read_text())["data_root"]
    return (run.resolve() / root).resolve()


def meaning(path: Path) -> object:
    """What must not change unnoticed: rows whatever their order, names, or the bytes."""
    content = path.read_bytes()
    if path.name in ("split.csv", "labels.txt"):
        lines = content.decode("utf-8-sig", errors="replace").splitlines()
        return (lines[:1], sorted(lines[1:])) if path.name == "split.csv" else lines
    return content


def damaged(run: Path, folder: Path, chance: random.Random, plant: str) -> tuple[str, str, int, float, list[str], str]:
    """Damage one file of a copy and ask a command that reads it."""
    work = copied(run, folder)
    files = sorted(path for path in work.rglob("*") if path.is_file())
    chosen = chance.choice(files)
    name = str(chosen.relative_to(work))
    before = meaning(chosen)
    how = damage(chosen, chance)
    asked: list[list[str]] = [["doctor", str(work)], ["report", str(work)], ["inspect", str(work)]]
    if chosen.suffix in (".onnx", ".tflite", ".keras"):
        asked.append(["inspect", str(chosen), "--input", "0..255"])
    if name in ("check.json", "predictions.csv"):
        asked.append(["baseline", "save", str(work), "-o", str(folder / "baseline.json")])
    words = chance.choice(asked)
    code, told, seconds = ended(words, folder, plant)
    found = faults_of(code, told, may_fail=words[0] == "doctor")
    is_bound = name.startswith(BOUND) and name != "run.json" and not name.endswith(".json")
    if is_bound and how != "nothing" and before != meaning(chosen) and words[0] == "doctor" and code == 0:
        found.append("silent")
    return "damage", f"{how} ({name})", code, seconds, found, " ".join(words[:1]) + "|" + told.strip()[-300:]


def leftovers(folder: Path) -> list[str]:
    """Half-written files and scratch folders of tledge."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*partial-*")]


def killed(run: Path, folder: Path, chance: random.Random, plant: str) -> tuple[str, str, int, float, list[str], str]:
    """Kill a command with its processes at a random moment; the next one must find nothing half-written."""
    work = copied(run, folder)
    name = chance.choice(("report", "export", "kit", "optimize"))
    out = folder / "made"
    words = {
        "report": ["report", str(work)],
        "export": ["export", str(work), "--force", "--recipe", "tflite-float32", "--recipe", "onnx-float32"],
        "kit": ["kit", str(work), "--target", "raspberry-pi-5", "-o", str(out)],
        "optimize": ["optimize", str(work), "--size-ratio", "8", "--epochs", "1", "--out", str(out)],
    }[name]
    if name != "report":
        words += ["--data", str(images_of(run))]
    longest = {"report": 1.5, "kit": 8.0}.get(name, 25.0)
    moment = chance.uniform(0.05, longest)
    code, told, seconds = ended(words, folder, plant, kill_after=moment)
    found = [] if code == -9 else faults_of(code, told, may_fail=name == "export")
    found += ["code"] if code == 2 else []  # a command that is refused was never killed
    health, said, more = ended(["doctor", str(work)], folder, plant)
    found += faults_of(health, said, may_fail=True)
    if name == "report" and health == 1:
        found.append("silent")  # reading commands leave the run whole
    if name == "report":
        again, said, _ = ended(words, folder, plant)
        found += faults_of(again, said, may_fail=False)
        found += ["leftover"] if leftovers(work) else []
    return "kill", f"{name} after {moment:.2f} s", code, seconds + more, found, said.strip()[-300:]


@contextlib.contextmanager
def small_disk(folder: Path, size_kb: int) -> Iterator[Path]:
    """A tmpfs of that size."""
    place = folder / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def filled(run: Path, folder: Path, chance: random.Random, plant: str) -> tuple[str, str, int, float, list[str], str]:
    """Write to a disk that has too little space."""
    work = copied(run, folder)
    size_kb = chance.choice((128, 512, 4096, 20_000))
    words = chance.choice((["report", str(work)], ["baseline", "save", str(work), "-o", "OUT"], ["kit", str(work)]))
    with small_disk(folder, size_kb) as disk:
        if words[0] == "report":
            for path in work.iterdir():  # the whole run but its artefacts moves to the small disk, full of it
                if path.is_file() and path.stat().st_size < 100_000:
                    with contextlib.suppress(OSError):
                        shutil.copy2(path, disk / path.name)
            words = ["report", str(disk)]
        elif words[0] == "kit":
            words += ["--target", "raspberry-pi-5", "-o", str(disk / "kit.zip"), "--data", str(images_of(run))]
        else:
            words[-1] = str(disk / "baseline.json")
        left = chance.choice((0, 4096, 65_536, 1 << 20))
        with contextlib.suppress(OSError), (disk / "rest").open("wb", buffering=0) as rest:
            while shutil.disk_usage(disk).free > left:
                rest.write(b"0" * 4096)
        code, told, seconds = ended(words, folder, plant)
        found = faults_of(code, told, may_fail=words[0] == "kit")
        found += ["leftover"] if leftovers(disk) else []
    return "full disk", f"{words[0]}, {left} bytes of {size_kb} kB free", code, seconds, found, told.strip()[-300:]


def main() -> None:
    """Run cases until the time is over, then print and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--cases", type=int, default=10**9, help="end after this case's number")
    parser.add_argument(
        "--kills", type=float, default=0.1, help="share of cases that kill a command, which take longer"
    )
    parser.add_argument("--plant", choices=PLANTS, default="")
    parser.add_argument("--summary", type=Path)
    given = parser.parse_args()
    if given.plant == "late":
        globals()["LIMIT_S"] = 10.0
    done = [json.loads(line) for line in given.log.read_text().splitlines()] if given.log.is_file() else []
    has_disks = os.geteuid() == 0 and shutil.which("mount") is not None
    end = time.monotonic() + given.minutes * 60
    number = len(done)
    with given.log.open("a") as log:
        while time.monotonic() < end and number < given.cases:
            chance = random.Random(f"{given.seed} {number}")
            drawn = chance.random()
            case = killed if drawn < given.kills else filled if drawn < given.kills + 0.1 and has_disks else damaged
            with tempfile.TemporaryDirectory(prefix="tledge-robustness-", dir=given.run.resolve().parent) as folder:
                kind, what, code, seconds, faults, said = case(given.run, Path(folder), chance, given.plant)
            command = said.partition("|")[0] if kind == "damage" else what.split()[0].rstrip(",")
            one = asdict(Case(number, kind, what, command, code, round(seconds, 2), tuple(faults), said))
            log.write(json.dumps(one) + "\n")
            log.flush()
            done.append(one)
            if faults:
                print(f"case {number}: {', '.join(faults)}: {kind}, {what}, {command}, exit {code}: {said}", flush=True)
            number += 1
    counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for one in done:
        for fault in one["faults"] or ["none"]:
            counts[one["kind"], one["command"], fault] += 1
    rows = [(given.seed, *key, times) for key, times in sorted(counts.items())]
    if not has_disks:
        rows.append((given.seed, "full disk", "-", "not possible here", 0))
    for row in rows:
        print(*row, sep="\t")
    if given.summary:
        with given.summary.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("seed", "kind", "command", "fault", "cases"))
            writer.writerows(rows)
    wrong = sum(bool(one["faults"]) for one in done)
    print(f"{len(done)} cases, {wrong} with faults")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
