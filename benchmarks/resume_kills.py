"""Kill trainings at random moments and let the same command go on: are the weights those of an undisturbed run?

For each case (a technique, or methods of `optimize`) the command runs once undisturbed. Then it is killed with SIGKILL,
up to `--kills-each` times in one run, each time after a random share of what the undisturbed run took, and repeated
until it ends. Compared are the digest of model.keras, what is left beside the run, and whether every process that was
not killed ended with 0. Processes are bound to one core, on which TensorFlow computes the same twice more often.

Usage: python benchmarks/resume_kills.py --kills 50 [--side 32] [--per-class 20] [--cases NAME …]
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tledge.core.environment import machine

RESULTS = Path(__file__).parent / "results"
TRAIN: Mapping[str, tuple[str, ...]] = {
    "feature-extraction": ("--technique", "feature-extraction", "--epochs", "400", "--patience", "400"),
    "freeze": ("--technique", "freeze", "--epochs", "12", "--patience", "12"),
    "freeze-augment": ("--technique", "freeze", "--augment", "--epochs", "12", "--patience", "12"),
    "architecture": ("--technique", "architecture", "--epochs", "5"),
    "architecture-random": ("--technique", "architecture", "--weights", "random", "--epochs", "5"),
}
SMALL = ("--speedup", "2", "--pictures", "80", "--last-layer", "none")
OPTIMIZE: Mapping[str, tuple[str, ...]] = {
    "low-rank": ("--method", "low-rank", *SMALL, "--epochs", "8"),
    "low-rank-qat": ("--method", "low-rank", "--method", "qat", *SMALL, "--epochs", "4"),
    "prune-cluster": ("--method", "prune", "--method", "cluster", "--epochs", "4"),
}


def main() -> None:
    """Run the campaign and write its rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--kills-each", type=int, default=3)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600.0, help="no other run begins after these")
    parser.add_argument("--cases", nargs="*", default=[*TRAIN, *OPTIMIZE])
    asked = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    generator = random.Random(asked.seed)
    ends = time.monotonic() + 60 * asked.minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = _digits(folder / "data", asked.per_class)
        parent = folder / "parent"
        if set(asked.cases) & {*OPTIMIZE}:
            _whole([*_train(data, asked.side, TRAIN["feature-extraction"]), "--out", parent])
        rows: list[dict[str, Any]] = []
        commands = {
            case: _train(data, asked.side, TRAIN[case]) if case in TRAIN else ("optimize", parent, *OPTIMIZE[case])
            for case in asked.cases
        }
        undisturbed = {case: _undisturbed(command, folder / case) for case, command in commands.items()}
        killed = 0
        while killed < asked.kills and time.monotonic() < ends:
            case = asked.cases[len(rows) % len(asked.cases)]
            row = _disturbed(commands[case], folder / case, *undisturbed[case], asked.kills_each, generator)
            killed += row["kills"]
            rows.append({"case": case, **row})
            print(rows[-1], f"{killed} of {asked.kills} kills", flush=True)
            _write(rows)
    failures = [row for row in rows if row["failed"] or row["leftovers"]]
    equal = sum(bool(row["equal_weights"]) for row in rows)
    print(f"{killed} kills in {len(rows)} runs: {equal} with equal weights, {len(failures)} failures")
    sys.exit(1 if failures else 0)


def _train(data: Path, side: int, options: Sequence[str]) -> tuple[object, ...]:
    return ("train", data, *options, "--image-size", str(side), "--batch-size", "8")


def _digits(folder: Path, per_class: int) -> Path:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in (0, 1, 7):
        (folder / str(label)).mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(digits.target == label)[:per_class]):
            pixels = np.round(digits.images[index] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).resize((40, 40)).save(folder / str(label) / f"{number:03d}.png")
    return folder


def _begun(command: Sequence[object]) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tledge", *map(str, command)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _whole(command: Sequence[object]) -> str:
    process = _begun(command)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors)
    return errors


def _undisturbed(command: Sequence[object], folder: Path) -> tuple[str, float]:
    """Digest of the weights, and seconds."""
    began = time.monotonic()
    _whole([*command, "--out", folder / "undisturbed"])
    return _digest(folder / "undisturbed"), time.monotonic() - began


def _digest(run: Path) -> str:
    return hashlib.sha256((run / "model.keras").read_bytes()).hexdigest()


def _disturbed(
    command: Sequence[object], folder: Path, expected: str, seconds: float, most: int, generator: random.Random
) -> dict[str, Any]:
    out = folder / "disturbed"
    kills, resumed, failed = 0, 0, ""
    while True:
        process = _begun([*command, "--out", out])
        try:
            _, errors = process.communicate(timeout=generator.uniform(0.05, 1.0) * seconds if kills < most else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            _, errors = process.communicate()
            kills += 1
        resumed += " resumed after " in errors or " finished before" in errors
        if out.exists() or process.returncode not in (0, -signal.SIGKILL):
            break
    if process.returncode not in (0, -signal.SIGKILL) or not (out / "run.json").is_file():
        failed = errors.strip().splitlines()[-1] if errors.strip() else str(process.returncode)
    left = sorted(path.name for path in folder.iterdir() if path.name not in ("undisturbed", "disturbed"))
    equal = not failed and _digest(out) == expected
    difference = 0.0 if equal or failed else _difference(folder / "undisturbed", out)
    if process.returncode:
        left = []  # the run appeared before the kill, and what is beside it goes with the next command
    shutil.rmtree(out, ignore_errors=True)
    for name in left:
        shutil.rmtree(folder / name, ignore_errors=True)
    return {
        "kills": kills,
        "resumed": resumed,
        "equal_weights": equal,
        "largest_difference": difference,
        "leftovers": " ".join(left),
        "failed": failed,
    }


def _difference(one: Path, other: Path) -> float:
    """Largest difference of two weights, as a share of the largest weight of the layer."""
    import keras

    first, second = (keras.models.load_model(run / "model.keras", compile=False).get_weights() for run in (one, other))
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-9)) for a, b in zip(first, second, strict=True))


def _write(rows: Sequence[Mapping[str, object]]) -> None:
    path = RESULTS / "resume_kills.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0], "machine"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "machine": f"{machine().cpu}, 1 core"} for row in rows)


if __name__ == "__main__":
    main()
