"""How long a page takes and how large it is: 10,000 test images, 12 files and 100 classes.

The images are real files on disk (photographs, each written under many names); answers, latencies and confusions are
made up, since a page only reads them. Every file loses and wins images, so that the page has to choose.

    python benchmarks/report_page.py PHOTOS RESULTS.csv [--images 10000] [--files 12] [--classes 100] [--samples 500]
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tledge.core.environment import machine, versions
from tledge.core.files import sha256_file
from tledge.core.records import plain
from tledge.runs.predictions import Answered, Predictions, write_predictions
from tledge.stats.metrics import proportion
from tledge.stats.paired import paired_drop

LOST, WON = 0.03, 0.01
RUNDIR = "run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("results", type=Path)
    for name, default in (("images", 10_000), ("files", 12), ("classes", 100), ("samples", 500)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), given.photos, given.images, given.files, given.classes, given.samples)
        seconds, peak_mb = report(run)
        size = (run / "report.html").stat().st_size
    row = {
        "images": given.images,
        "files": given.files,
        "classes": given.classes,
        "samples per file": given.samples,
        "seconds": f"{seconds:.1f}",
        "peak MB": f"{peak_mb:.0f}",
        "page MB": f"{size / 1e6:.2f}",
        "machine": f"{machine().cpu}, {machine().cores} cores",
    }
    is_new = not given.results.exists()
    with given.results.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, row, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)
    print(row)


def report(run: Path) -> tuple[float, float]:
    """Seconds and peak memory of `tledge report` in a process of its own, start included."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tledge", "report", str(run)], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6


def make_run(folder: Path, photos: Path, images: int, files: int, classes: int, samples: int) -> Path:
    """A run whose stages all ran, as far as a report can tell."""
    run, data = folder / RUNDIR, folder / "data"
    (run / "export").mkdir(parents=True)
    names = [f"class {number:03d}" for number in range(classes)]
    random = np.random.default_rng(0)
    labels = random.integers(classes, size=images)
    sources = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    paths = []
    for index, label in enumerate(labels):
        source = sources[index % len(sources)]
        path = Path(names[label]) / f"{index:05d}{source.suffix}"
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, data / path)
        paths.append(path.as_posix())
    with (run / "split.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("path", "class", "subset", "sha256"))
        digest = sha256_file(sources[0])
        writer.writerows((path, names[label], "test", digest) for path, label in zip(paths, labels, strict=True))
    reference = np.where(random.random(images) < 0.9, labels, random.integers(classes, size=images))
    answers = {"reference": reference}
    for number in range(files):
        found = reference.copy()
        right = reference == labels
        changed = np.where(right, random.random(images) < LOST, random.random(images) < 10 * WON)
        found[changed] = np.where(right, random.integers(classes, size=images), labels)[changed]
        answers[f"file-{number:02d}"] = found
    said = {
        name: Answered([names[i] for i in found], random.uniform(0.3, 1.0, images).tolist())
        for name, found in answers.items()
    }
    write_predictions(run / "predictions.csv", Predictions(paths, [names[i] for i in labels], said))
    write(run / "run.json", manifest(names, labels))
    artefacts, results = [], []
    for number in range(files):
        name = f"file-{number:02d}"
        content = bytes([number]) * (1_000_000 * (number + 1))
        path = run / "export" / f"{name}.{'tflite' if number % 2 else 'onnx'}"
        path.write_bytes(content)
        write(path.with_suffix(".json"), sidecar(name, path, number))
        artefacts.append(checked(name, path, answers[name], reference, labels, names))
        results.append(measured(name, path, 5.0 + 3 * number, samples, random))
    write(run / "check.json", check(names, answers["reference"], labels, artefacts))
    write(run / "bench.json", bench(results, samples))
    return run


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps({"schema_version": 1, **content}))


def manifest(names: list[str], labels: Any) -> dict[str, Any]:
    counts = {name: int((labels == index).sum()) for index, name in enumerate(names)}
    none = dict.fromkeys(names, 0)
    return {
        **{"created": "2026-11-27T00:00:00+00:00", "command": "benchmarks/report_page.py", "versions": versions()},
        **{"machine": plain(machine()), "seed": 0, "technique": "freeze", "head": "gap", "settings": {}},
        **{"classes": names, "image_size_px": 224, "resize_method": "bilinear", "data_root": "../data"},
        "data_fingerprint": "0" * 64,
        "split": {
            **{"val_fraction": 0.2, "test_fraction": 0.2, "dropped": []},
            "images": {"train": 0, "val": 0, "test": len(labels)},
            "images_per_class": {"train": none, "val": none, "test": counts},
        },
        "weights": {"requested": "imagenet", "source": "made up", "digest": "1" * 64},
        "training": {
            **{"epochs": 1, "best_epoch": 1, "val_accuracy": 0.9, "val_loss": 0.1, "trainable_parameters": 1},
            **{"prefix_images": 0, "prefix_cached": 0, "prefix_seconds": 0.0},
        },
        **{"timings_s": {}, "model_sha256": "2" * 64, "reference_sha256": "2" * 64, "parent": None},
        "optimization": None,
    }


def sidecar(name: str, path: Path, number: int) -> dict[str, Any]:
    return {
        **{"name": name, "format": path.suffix[1:], "precision": "int8" if number % 3 else "float32"},
        **{"sha256": sha256_file(path), "size_bytes": path.stat().st_size, "gzip_bytes": path.stat().st_size},
        "input": {"shape": ["N", 224, 224, 3], "dtype": "uint8", "range": [0, 255]},
        "output": {"shape": ["N", 100], "dtype": "uint8"},
        **{"ops": {}, "int8_op_share": 1.0, "limits": {}, "source_sha256": "2" * 64, "seconds": 1.0},
        "verification": {
            **{"images": 20, "max_probability_difference": 0.0, "mean_probability_difference": 0.0, "agreement": 1.0}
        },
        "lineage": {
            **{"tledge": "0", "source_sha256": "2" * 64, "recipe": name, "recipe_sha256": "3" * 64},
            **{"technique": "freeze", "weights_sha256": "1" * 64, "data_fingerprint": "0" * 64, "image_size_px": 224},
            **{"resize_method": "bilinear", "versions": {}},
        },
    }


def shares(found: Any, labels: Any, names: list[str]) -> dict[str, Any]:
    hits = found == labels
    confusion = np.zeros((len(names), len(names)), int)
    np.add.at(confusion, (labels, found), 1)
    recall = confusion.diagonal() / np.maximum(confusion.sum(axis=1), 1)
    part = proportion(int(hits.sum()), len(hits))
    return {
        **{"accuracy": float(hits.mean()), "accuracy_interval_95": [part.low, part.high], "n": len(hits)},
        **{"recall": dict(zip(names, recall.tolist(), strict=True)), "confusion": confusion.tolist()},
    }


def checked(name: str, path: Path, found: Any, reference: Any, labels: Any, names: list[str]) -> dict[str, Any]:
    drop = paired_drop(reference == labels, found == labels)
    agreement = float((found == reference).mean())
    gate = {"name": "max_drop", "value": drop.value, "limit": 0.02, "interval_95": [drop.low, drop.high]}
    return {
        **{"name": name, "path": f"export/{path.name}", "sha256": sha256_file(path), "runtime": "litert"},
        **{"size_bytes": path.stat().st_size, "verdict": "fail", "passed": False, "reason": ""},
        **shares(found, labels, names),
        **{"accuracy_drop": drop.value, "accuracy_drop_interval_95": [drop.low, drop.high]},
        **{"lost": drop.lost, "won": drop.won, "mcnemar_p": drop.p_value, "agreement": agreement},
        **{"agreement_interval_95": [0.0, 1.0], "max_probability_difference": 0.5, "mean_probability_difference": 0.1},
        "gates": [{**gate, "n": len(labels), "verdict": "fail", "passed": False, "note": ""}],
        "since_baseline": None,
    }


def check(names: list[str], reference: Any, labels: Any, artefacts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        **{"passed": False, "verdict": "fail", "on_undecided": "fail", "n": len(labels)},
        **{"created": "2026-11-27T00:00:00+00:00", "data_root": "../data", "data_fingerprint": "0" * 64},
        **{"reference_sha256": "2" * 64, "classes": names, "reference": shares(reference, labels, names)},
        **{"artefacts": artefacts, "missing_from_baseline": [], "notes": [], "versions": versions()},
        "machine": plain(machine()),
    }


def measured(name: str, path: Path, p50: float, samples: int, random: Any) -> dict[str, Any]:
    rounds = np.round(p50 * random.lognormal(0, 0.1, (10, samples // 10)), 4)
    percentiles = {f"p{at}": float(np.percentile(rounds, at)) for at in (50, 90, 99)}
    return {
        **{"name": name, "runtime": "litert", "precision": "int8", "size_bytes": path.stat().st_size},
        **{"sha256": sha256_file(path), "batch": 1, "threads": 2, "n": rounds.size},
        "latency_ms": {**percentiles, "mean": float(rounds.mean()), "min": float(rounds.min())},
        **{"p50_interval_95": [p50 * 0.98, p50 * 1.02], "stable": None, "load_ms": 1.0, "first_ms": 1.0},
        **{"peak_rss_mb": 100.0, "model_rss_mb": 10.0, "energy_j": None, "energy_interval_95": None},
        **{"speedup_vs_keras": 2.0, "speedup_interval_95": [1.9, 2.1], "samples_ms": rounds.tolist()},
    }


def bench(results: list[dict[str, Any]], samples: int) -> dict[str, Any]:
    settings = {"threads": 2, "batch": 1, "rounds": 10, "samples": samples // 10, "warmup": 2, "warmup_ms": 100}
    return {
        **{"created": "2026-11-27T00:00:00+00:00", "notes": [], "results": results},
        "environment": {
            **{"machine": plain(machine()), "versions": versions(), "busy_cores_before": 0.0, "energy_source": None}
        },
        "settings": {**settings, "until_stable": None, "max_rounds": 10},
        **{"other_settings": [], "hosts": [], "runtime_options": []},
    }


if __name__ == "__main__":
    main()
