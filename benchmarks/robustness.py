"""Does anything but one clear line come of damaged files, kills, full disks, two commands at once, slow or read-only
folders?

    python benchmarks/robustness.py --log LOG.jsonl [--seed N] [--minutes M] [--inputs N] [--kills N] [--full-disks N]
        [--pairs N] [--read-only N] [--slow N] [--summary FILE.csv]
    python benchmarks/robustness.py --log LOG.jsonl --plant KIND --inputs 300        # must find something

Case number n of a kind and a seed is always the same one. LOG gets a line for each case and is gone on with where it
ends, in as many calls as wanted; the material stands beside it in a folder that is made once (`robustness_material`).
Commands run in forks of this process (`robustness_commands`), one case in 40 in a process of its own.

- input: one file is damaged (`robustness_damage`), or something else stands in its place, and a command reads it.
- kill: a command and all its processes are killed at a random moment, or it alone is, or it is told to stop; then it
  is called again.
- full disk: the same, with a disk that has too little space for the run, for temporary files or for the user's cache;
  then the disk has space, and it is called again.
- pair: two commands at once in the same place; then one of them again.
- read-only: the run, the place for results, for temporary files or for the cache cannot be written;
- slow: opening, listing, renaming and removing files takes long; half of the commands are killed there.

What counts as a fault:

- traceback: a traceback on stderr, or an end with 2 that does not end with a line of tledge's;
- noise: lines on stderr that are not tledge's where it refuses something;
- code: an exit code other than 0, 1, 2, 3, 130 and 143, or 1 where no gate can have failed;
- unforeseen: exit code 3;
- silent: a result that is not the one of undamaged files, where the damage could be known and was not told;
- late: no end within the time limit;
- leftover: a file or a process that is still there when the command was called again;
- again: the command called again does not do its work.

`--plant KIND` makes tledge wrong in that way, in the processes of this campaign alone. A campaign that finds nothing
there is worth nothing. Small disks and read-only folders are mounts and need root; without it they are left out, which
the summary says.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import robustness_commands
from robustness_commands import PLANTED, REMOTE, SLOW, Ended, Place, Running, ended, preload, ssh_server
from robustness_damage import damage, misplaced
from robustness_material import COMMANDS, READERS, Command, Reader, prepared

from tledge.core.files import write_text

ALLOWED = (0, 1, 2, 3, 130, 143)
_OWN_LINE = re.compile(r"tledge(_device)?: |Usage: |Try '|Error: |$")
# What differs between two equal calls.
_TIMES = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?(Z|\+00:00| UTC)?|\b\d+(\.\d+)? (s|min|ms)\b")
_NONSENSE = re.compile(r"\b(nan|NaN|None|inf|Infinity)\b|[\x00-\x08\x0b-\x1f\u202e]|^::error", re.MULTILINE)
_BIG = 5_000_000
# With the first, everything works; the others may be refused.
ORDINARY_NAMES = ("a b", "rün", "run[1]", "{x}%s", "$(x)", ".hidden", "run.keras", "run.onnx", "a'b", "run#1", "実行")
HOSTILE_NAMES = (
    "-run",
    "--help",
    "a\nb",
    "\x1b[2Jrun",
    "\u202erun",
    "run\udcff",
    "a" * 250,
    "*",
    " ",
    "::error::x",
    "a\\b",
)


@dataclass(frozen=True)
class Case:
    """What was done and what came of it; `faults` is empty where all went right."""

    number: int
    kind: str
    what: str
    command: str
    code: int
    outcome: str
    seconds: float
    faults: tuple[str, ...]
    said: str


@dataclass(frozen=True)
class Found:
    """A case without its number."""

    what: str
    command: str
    code: int
    outcome: str
    faults: list[str]
    said: str


def faults_of(done: Ended, codes: tuple[int, ...] = ()) -> list[str]:
    """What is wrong with how a command ended; `codes` are right besides 0 and 2."""
    found = []
    lines = [line for line in done.told.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith(("tledge: ", "tledge_device: "))]
    refused = done.code in (2, 130) or (done.code == 143 and lines)  # who ends it needs no line
    if "Traceback (most recent call last)" in done.told or (refused and (not own or not _OWN_LINE.match(lines[-1]))):
        found.append("traceback")
    elif refused and not all(map(_OWN_LINE.match, lines)):
        found.append("noise")
    if done.code == 124:
        found.append("late")
    elif done.code == 3:
        found.append("unforeseen")
    elif done.code not in ALLOWED or (done.code == 1 and 1 not in codes):
        found.append("code")
    if done.orphans:
        found.append("leftover")
    return found


class Campaign:
    """The cases of one seed, on material that is only read."""

    def __init__(self, work: Path, seed: int, plant: str) -> None:
        self.work, self.seed, self.plant = work, seed, plant
        self.material = work / "material"
        self.seconds = prepared(self.material)
        self._answers: dict[str, tuple[int, dict[str, str]]] = {}
        self._kept: dict[str, frozenset[str]] = {}

    # -- one place for every case, so that equal calls say equal things ------------------------------------------------

    @contextlib.contextmanager
    def place(
        self, *, copied: bool = False, on: Callable[[Path], contextlib.AbstractContextManager[object]] | None = None
    ) -> Iterator[Path]:
        """A folder with the material: links, so that it costs nothing, or copies of all but large files."""
        folder = self.work / "case"
        _unmount_all(folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with on(folder) if on else contextlib.nullcontext():
            try:
                _copied(self.material, folder, copied)
                yield folder
            finally:
                _unmount_all(folder)
        shutil.rmtree(folder, ignore_errors=True)

    def run(self, command: Command, folder: Path, *, own_process: bool = False) -> Ended:
        """Run a command with the material."""
        return ended(list(command.words), Place(folder, self.plant, own_process, command.before).made())

    def answer(self, name: str) -> tuple[int, dict[str, str]]:
        """Exit code and results of a command on undamaged material; what differs between two calls is left out."""
        if name not in self._answers:
            kept = self.work / "answers" / f"{name}.json"
            if kept.is_file():
                code, results, files, seconds = json.loads(kept.read_text())
            else:
                found = []
                for _ in range(2):
                    with self.place() as folder:
                        started = time.monotonic()
                        place = Place(folder, before=COMMANDS[name].before).made()
                        done = ended(list(COMMANDS[name].words), place)
                        seconds = time.monotonic() - started
                        found.append((done.code, results_of(done, COMMANDS[name], folder), sorted(files_in(folder))))
                (code, first, files), (again, second, _) = found
                if code != again or code not in (0, *COMMANDS[name].codes):
                    raise SystemExit(f"{name}: {code} and {again} on undamaged material: {done.told}{done.out}")
                results = {key: value for key, value in first.items() if second.get(key) == value}
                if results.keys() != first.keys():
                    print(f"{name}: not compared, since two calls differ: {sorted(first.keys() - results.keys())}")
                kept.parent.mkdir(exist_ok=True)
                kept.write_text(json.dumps([code, results, files, seconds]))
            self._answers[name] = (code, results)
            self._kept[name] = frozenset(files)
            self.seconds[name] = seconds
        return self._answers[name]

    # -- inputs --------------------------------------------------------------------------------------------------------

    def input(self, chance: random.Random) -> Found:
        """Damage one file, or give one a name that nobody expects, and ask a command that reads it."""
        if chance.random() < 0.04:
            return self._named(chance)
        (reader,) = chance.choices(READERS, [one.weight for one in READERS])
        name = chance.choice(reader.commands)
        code, results = self.answer(name)
        own = chance.random() < 1 / 40
        with self.place() as folder:
            path = folder / reader.file
            before = meaning(path)
            how = misplaced(path, chance) if chance.random() < 0.04 else damage(path, chance)
            kept = path.read_bytes() if path.is_file() and path.stat().st_size < _BIG else b""
            done = self.run(COMMANDS[name], folder, own_process=own)
            found = faults_of(done, COMMANDS[name].codes)
            must_be_seen = name.startswith("doctor") and reader.file != "run/run.json" and before != meaning(path)
            outcome = judged(reader, how, done, code, results, results_of(done, COMMANDS[name], folder), must_be_seen)
        if outcome in ("silent", "nonsense"):
            found.append("silent")
        if found:
            self._keep(reader.file, kept)
        said = done.told.strip()[-300:] or done.out.strip()[-200:]
        return Found(f"{how} ({reader.file})", name, done.code, outcome, found, said)

    def _named(self, chance: random.Random) -> Found:
        """A run, a class or a picture has another name."""
        old = chance.choice(("run", "run", "digits/digit 1", "photo.png"))
        names = {
            "run": ("doctor", "report", "inspect run", "check", "kit", "export", "compare", "baseline", "diagnose")
        }
        name = chance.choice(names.get(old, ("predict int8",) if old == "photo.png" else ("adopt",)))
        code, results = self.answer(name)
        new = chance.choice(ORDINARY_NAMES + HOSTILE_NAMES)
        # The order of classes, which is that of their names, stays.
        placed = f"{old}{new}" if old.startswith("digits") else os.path.join(os.path.dirname(old), new)
        with self.place() as folder:
            try:
                (folder / old).rename(folder / placed)
            except OSError as error:
                return Found(f"named {new!r}", name, 0, "no name", [], str(error))
            words = [
                placed + word.removeprefix(old) if word == old or word.startswith(f"{old}/") else word
                for word in COMMANDS[name].words
            ]
            done = ended(words, Place(folder, self.plant).made())
        found = faults_of(done, COMMANDS[name].codes)
        if new in ORDINARY_NAMES and done.code != code and old != "photo.png":
            found.append("again")
        if any(_NONSENSE.search(text) and not _NONSENSE.search(results["out"]) for text in (done.out, done.told)):
            found.append("silent")
        said = done.told.strip()[-300:] or done.out.strip()[-200:]
        return Found(f"named {new!r} ({old})", name, done.code, f"name: {done.code}", found, said)

    def _keep(self, file: str, content: bytes) -> None:
        folder = self.work / "faults"
        folder.mkdir(exist_ok=True)
        digest = hashlib.sha256(content).hexdigest()[:12]
        (folder / f"{file.replace('/', '_')}-{digest}").write_bytes(content)

    # -- commands that are stopped, and called again -------------------------------------------------------------------

    def _drawn(self, chance: random.Random) -> str:
        names = [name for name, command in COMMANDS.items() if command.kills]
        return chance.choices(names, [COMMANDS[name].kills for name in names])[0]

    def again(self, name: str, folder: Path) -> tuple[Ended, list[str]]:
        """Call a command once more: it must do its work, as if nothing had been, and leave nothing else behind."""
        command, (code, results) = COMMANDS[name], self.answer(name)
        done = self.run(command, folder)
        found = faults_of(done, command.codes)
        there = done.code == 2 and "for a new run" in done.told and (folder / "made").is_dir()
        if there:  # the first call was over but for its end
            done = ended(["doctor", "made"], Place(folder, self.plant).made())
            found = faults_of(done)
            found += ["again"] if done.code else []
        elif done.code != code:
            found.append("again")
        made = results_of(done, command, folder)
        if not there and any(made.get(key) != value for key, value in results.items() if key not in ("out", "told")):
            found.append("silent")
        extra = sorted(path for path in files_in(folder) - self._kept[name] if not _is_free(path))
        if extra:
            found.append("leftover")
            done = Ended(done.code, done.out, f"{done.told.strip()[-120:]} LEFT {extra[:4]} ({len(extra)})", 0.0)
        return done, found

    def kill(self, chance: random.Random) -> Found:
        """Stop a command at a random moment."""
        name = self._drawn(chance)
        self.answer(name)
        own = chance.random() < 0.2
        longest = self.seconds[name] * 1.05 + (5.0 if own else 0.0)
        moment = chance.uniform(0.0, longest)
        how, stop, whole = chance.choices(
            (
                ("group", signal.SIGKILL, True),
                ("alone", signal.SIGKILL, False),
                ("term", signal.SIGTERM, False),
                ("interrupt", signal.SIGINT, True),
            ),
            (6, 2, 1, 1),
        )[0]
        with self.place() as folder:
            place = Place(folder, self.plant, own, before=COMMANDS[name].before).made()
            first = Running(list(COMMANDS[name].words), place).end(moment, stop, whole)
            found = [] if first.code == -signal.SIGKILL else faults_of(first, COMMANDS[name].codes)
            at_once = first.code in (-stop, 128 + stop) and not first.told
            if at_once and stop != signal.SIGKILL and moment < 0.3:
                found = []  # before it could provide for that, or say so
            second, more = self.again(name, folder)
        outcome = "killed" if first.code < 0 else f"ended with {first.code}"
        said = f"{first.told.strip()[-150:]} | {second.told.strip()[-250:]}"
        what = f"{how} after {moment:.2f} of {longest:.1f} s"
        return Found(what, name, first.code, outcome, found + more, said)

    def full_disk(self, chance: random.Random) -> Found:
        """Let a command write to a disk that has too little space, then to one that has enough."""
        name = self._drawn(chance)
        self.answer(name)
        where = chance.choice((".", ".", ".", "tmp", "cache"))
        left = int(chance.choice((0, 1, 4, 16, 64, 256, 1024)) * 1024 * chance.uniform(0.5, 1.5))
        with self.place(copied=True, on=lambda folder: _disk(folder / where)) as folder:
            disk = folder / where
            place = Place(folder, self.plant, before=COMMANDS[name].before).made()
            with contextlib.suppress(OSError), (disk / "rest").open("wb", buffering=0) as rest:
                while shutil.disk_usage(disk).free > left:
                    rest.write(b"0" * min(65_536, max(4096, shutil.disk_usage(disk).free - left)))
            first = ended(list(COMMANDS[name].words), place)
            found = faults_of(first, COMMANDS[name].codes)
            (disk / "rest").unlink()
            second, more = self.again(name, folder)
        said = f"{first.told.strip()[-250:]} | {second.told.strip()[-200:]}"
        return Found(
            f"{left // 1024} kB free in {where}", name, first.code, f"ended with {first.code}", found + more, said
        )

    def pair(self, chance: random.Random) -> Found:
        """Two commands at once, mostly the same."""
        name = self._drawn(chance)
        other = name if chance.random() < 0.6 else self._drawn(chance)
        self.answer(name)
        self.answer(other)
        with self.place() as folder:
            both = []
            for one, wait in ((name, 0.0), (other, chance.uniform(0, 0.7 * self.seconds[name]))):
                time.sleep(wait)
                both.append(Running(list(COMMANDS[one].words), Place(folder, self.plant).made()))
            ends = [one.end() for one in both]
            found = [
                fault
                for end, one in zip(ends, (name, other), strict=True)
                for fault in faults_of(end, COMMANDS[one].codes)
            ]
            found += ["again"] if all(end.code == 2 for end in ends) else []
            shared = self._kept[name] | self._kept[other]
            extra = sorted(path for path in files_in(folder) - shared if not _is_free(path))
            found += ["leftover"] if extra else []
            looked = ended(["doctor", "run"], Place(folder, self.plant).made())
            found += ["silent"] if looked.code else []
        said = f"{ends[0].told.strip()[-150:]} | {ends[1].told.strip()[-150:]} LEFT {extra[:4]}"
        said += looked.out[-200:] if looked.code else ""
        return Found(f"with {other}", name, ends[1].code, f"{ends[0].code} and {ends[1].code}", found, said)

    def read_only(self, chance: random.Random) -> Found:
        """A folder that cannot be written."""
        name = self._drawn(chance)
        self.answer(name)
        where = chance.choice(("run", ".", "tmp", "cache", "home"))
        with self.place() as folder:
            place = Place(folder, self.plant, before=COMMANDS[name].before).made()
            target = folder / where
            with _sealed(target):
                first = ended(list(COMMANDS[name].words), place)
            found = faults_of(first, COMMANDS[name].codes)
            second, more = self.again(name, folder)
        said = f"{first.told.strip()[-250:]} | {second.told.strip()[-200:]}"
        return Found(f"read-only {where}", name, first.code, f"ended with {first.code}", found + more, said)

    def slow(self, chance: random.Random) -> Found:
        """A file system that is slow with names."""
        name = self._drawn(chance)
        command, (_, results) = COMMANDS[name], self.answer(name)
        moment = chance.uniform(0.0, 3 * self.seconds[name]) if chance.random() < 0.5 else None
        with self.place() as folder:
            place = Place(folder, self.plant, before=f"{command.before}\n{SLOW}").made()
            first = ended(list(command.words), place, moment)
            killed = first.code == -signal.SIGKILL
            found = [] if killed else faults_of(first, command.codes)
            made = {} if killed else results_of(first, command, folder)
            found += ["silent"] if any(results.get(key, value) != value for key, value in made.items()) else []
            second, more = self.again(name, folder)
        outcome = "killed" if killed else f"ended with {first.code}"
        said = f"{first.told.strip()[-150:]} | {second.told.strip()[-250:]}"
        what = "to the end" if moment is None else f"killed after {moment:.2f} s"
        return Found(what, name, first.code, outcome, found + more, said)


def judged(
    reader: Reader,
    how: str,
    done: Ended,
    code: int,
    expected: dict[str, str],
    made: dict[str, str],
    must_be_seen: bool = False,
) -> str:
    """What a command made of damage: `refused`, `equal`, `told`, `other` (a value that may be meant), `silent`."""
    if done.code not in (0, code):
        return "refused"
    if must_be_seen and reader.bound and done.code == 0:  # `doctor`, whose result is whether it sees it
        return "silent"
    changed = [key for key, value in expected.items() if made.get(key) != value and key != "told"]
    if not changed or how == "nothing":
        return "equal"
    path = Path(reader.file)
    names = {path.name, path.with_suffix(".json").name}  # or its sidecar's
    if "written" in made["out"] and "written" not in expected["out"]:  # `export` makes anew what is not as described
        return "told"
    named = any(made.get(key, "").count(name) > expected[key].count(name) for key in expected for name in names)
    if done.code == 1 or named:
        return "told"
    if any(_NONSENSE.search(made.get(key, "")) and not _NONSENSE.search(expected[key]) for key in changed):
        return "nonsense"
    if reader.bound:
        return "silent"
    return "silent" if how.startswith(("cut", "replaced")) and Path(reader.file).suffix == ".json" else "other"


def meaning(path: Path) -> object:
    """What in a file must not change unnoticed: rows whatever their order, names, or the bytes."""
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError:
        return None
    if path.name in ("split.csv", "labels.txt"):
        lines = content.decode("utf-8-sig", errors="replace").splitlines()
        return (lines[:1], sorted(lines[1:])) if path.name == "split.csv" else lines
    return content


def results_of(done: Ended, command: Command, folder: Path) -> dict[str, str]:
    """What a command said and wrote, without times."""
    found = {"out": _TIMES.sub("T", done.out), "told": _TIMES.sub("T", done.told)}
    for name in command.makes:
        path = folder / name
        with contextlib.suppress(OSError, zipfile.BadZipFile):
            if path.suffix == ".zip":
                with zipfile.ZipFile(path) as archive:
                    members = {inner: archive.read(inner) for inner in archive.namelist()}
                found[name] = str({inner: _plain(inner, content) for inner, content in members.items()})
            else:
                found[name] = _plain(name, path.read_bytes())
    return found


def _plain(name: str, content: bytes) -> str:
    if name.endswith((".json", ".csv", ".md", ".html", ".txt")):
        return _TIMES.sub("T", content.decode(errors="replace"))
    return hashlib.sha256(content).hexdigest()


def files_in(folder: Path) -> set[str]:
    """Every file and every empty folder."""
    found: set[str] = set()
    for root, folders, files in os.walk(folder):
        inner = os.path.relpath(root, folder)
        found.update(os.path.normpath(os.path.join(inner, name)) for name in files)
        if not folders and not files:
            found.add(inner)
    return found


# What may stay: reports of errors are counted as such, a search keeps candidates and what it knows of them, and the
# user's cache is one.
_FREE = re.compile(
    r"(cache/tledge/(opened|features|images)|made\.search|home/\.(ssh|keras))(/.*)?|tmp|there|cache|home|user|cache/tledge"
)


def _is_free(path: str) -> bool:
    return bool(_FREE.fullmatch(path)) and ".partial-" not in path


def _copied(source: Path, target: Path, by_content: bool) -> None:
    """The material in a folder; files of which there are links are only ever replaced."""
    for root, folders, files in os.walk(source):
        inner = target / os.path.relpath(root, source)
        for name in folders:
            (inner / name).mkdir(exist_ok=True)
        for name in files:
            path = os.path.join(root, name)
            if not by_content:
                os.link(path, inner / name)
            elif os.path.getsize(path) < _BIG:
                shutil.copy2(path, inner / name)
            else:
                (inner / name).symlink_to(path)


@contextlib.contextmanager
def _disk(place: Path) -> Iterator[None]:
    """A tmpfs, large enough for the material and a little more."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(place)], check=True)
    yield


@contextlib.contextmanager
def _sealed(place: Path) -> Iterator[None]:
    """A folder that root cannot write either."""
    for options in (["--bind", str(place), str(place)], ["-o", "remount,ro,bind", str(place)]):
        subprocess.run(["mount", *options], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _unmount_all(folder: Path) -> None:
    while mounted := [
        line.split()[1]
        for line in Path("/proc/mounts").read_text().splitlines()
        if line.split()[1] == str(folder) or line.split()[1].startswith(f"{folder}/")
    ]:
        subprocess.run(["umount", "-l", mounted[-1]], check=True)


def main() -> None:
    """Run cases until there are enough or the time is over, then print and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="for material and cases; default: beside LOG")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--inputs", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--full-disks", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--read-only", type=int, default=0)
    parser.add_argument("--slow", type=int, default=0)
    parser.add_argument("--plant", choices=tuple(PLANTED), default="")
    parser.add_argument("--case", metavar="KIND NUMBER", help="run one case again, such as 'input 90'; nothing is kept")
    parser.add_argument(
        "--repeat", action="store_true", help="first run those again that had faults; LOG keeps the new"
    )
    parser.add_argument("--summary", type=Path)
    given = parser.parse_args()
    if given.plant == "late":
        robustness_commands.LIMIT_S = 10.0
    done = [json.loads(line) for line in given.log.read_text().splitlines()] if given.log.is_file() else []
    wanted = {
        "input": given.inputs,
        "kill": given.kills,
        "full disk": given.full_disks,
        "pair": given.pairs,
        "read-only": given.read_only,
        "slow": given.slow,
    }
    if os.geteuid() or shutil.which("mount") is None:
        for kind in ("full disk", "read-only"):
            wanted[kind] = 0
            print(f"{kind}: not possible here without root")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    end = time.monotonic() + given.minutes * 60
    preload()
    work = (given.work or given.log.with_suffix(".work")).resolve()
    campaign = Campaign(work, given.seed, given.plant)
    cases = {
        "input": campaign.input,
        "kill": campaign.kill,
        "full disk": campaign.full_disk,
        "pair": campaign.pair,
        "read-only": campaign.read_only,
        "slow": campaign.slow,
    }
    if given.case:
        kind, _, number = given.case.rpartition(" ")
        with ssh_server(work / "ssh", work / "case" / REMOTE):
            print(cases[kind](random.Random(f"{given.seed} {kind} {number}")))
        return

    def run(kind: str, number: int) -> dict[str, Any]:
        started = time.monotonic()
        found = cases[kind](random.Random(f"{given.seed} {kind} {number}"))
        seconds, faults = round(time.monotonic() - started, 2), tuple(dict.fromkeys(found.faults))
        case = Case(number, kind, found.what, found.command, found.code, found.outcome, seconds, faults, found.said)
        if faults:
            told = f"{found.what}, {found.command}, exit {found.code}, {found.outcome}: {found.said}"
            print(f"{kind} {number}: {', '.join(faults)}: {told}", flush=True)
        return asdict(case)

    with ssh_server(work / "ssh", work / "case" / REMOTE):
        if given.repeat:
            done = [run(one["kind"], one["number"]) if one["faults"] else one for one in done]
            write_text(given.log, "".join(f"{json.dumps(one)}\n" for one in done))
        count = collections.Counter(one["kind"] for one in done)
        with given.log.open("a") as log:
            while time.monotonic() < end:
                shares = {kind: count[kind] / many for kind, many in wanted.items() if count[kind] < many}
                if not shares:
                    break
                kind = min(shares, key=lambda kind: shares[kind])
                done.append(run(kind, count[kind]))
                log.write(json.dumps(done[-1]) + "\n")
                log.flush()
                count[kind] += 1
    summarize(done, given.seed, given.summary)


def summarize(done: list[dict[str, object]], seed: int, summary: Path | None) -> None:
    """Print and write how many cases of each kind there were, and with which faults."""
    counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for one in done:
        faults: list[str] = one["faults"] or ["none"]  # type: ignore[assignment]
        for fault in faults:
            counts[str(one["kind"]), str(one["command"]), fault] += 1
    rows = [(seed, *key, times) for key, times in sorted(counts.items())]
    if summary:
        with summary.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("seed", "kind", "command", "fault", "cases"))
            writer.writerows(rows)
    by_kind = collections.Counter(str(one["kind"]) for one in done)
    outcomes = collections.Counter(f"{one['kind']}: {one['outcome']}" for one in done)
    wrong = [one for one in done if one["faults"]]
    print(dict(by_kind), dict(sorted(outcomes.items())))
    print(f"{len(done)} cases in {sum(float(str(one['seconds'])) for one in done):.0f} s, {len(wrong)} with faults")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
