"""How small and fast `low-rank` and `filters` get a model, and what that costs, over several runs (say, three seeds).

    python benchmarks/shrink_front.py --out RESULTS.csv --folder WORK RUN... [--target TARGET]...

A target is METHOD:SPEEDUP:SIZE_RATIO:LAST_LAYER:IMAGE_SIZE, 0 for none, as `tledge optimize` takes them, such as
`low-rank:12:17.5:auto:160`. Every run is optimized for every target, exported to tflite-int8 and onnx-int8, and checked
on its *test* subset against the original. Runs of an earlier call in WORK are taken as they are if they were made from
the same model with the same settings. Latency is not measured here: `tledge bench` on the folders in WORK does that on
an idle machine.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tledge.cli.progress import progress
from tledge.compression import LowRankSettings, ShrinkSettings
from tledge.compression.images import RunImages
from tledge.compression.optimize import optimize
from tledge.conversion.export import export
from tledge.evaluation.check import check
from tledge.evaluation.settings import CheckSettings
from tledge.runs.manifest import Manifest, read_manifest
from tledge.runs.rundir import open_run

RECIPES = ("tflite-int8", "onnx-int8")


def parsed(target: str, seed: int) -> ShrinkSettings:
    """Settings for `low-rank:12:17.5:auto:160`."""
    method, speedup, size, last_layer, side = target.split(":")
    return {"filters": ShrinkSettings, "low-rank": LowRankSettings}[method](
        speedup=float(speedup) or None,
        size_ratio=float(size) or None,
        last_layer=last_layer,
        image_size_px=int(side) or None,
        seed=seed,
    )


def made(run: Path, images: RunImages, target: str, folder: Path) -> Path:
    """The optimized, exported and checked run, made unless it is there."""
    out = folder / f"{run.name}-{target.replace(':', '-')}"
    settings = parsed(target, read_manifest(open_run(run)).seed)
    with progress() as show:
        if not out.exists():
            optimize(run, settings, out, show, images)
        require_same(read_manifest(open_run(run)), settings, out)
        export(out, RECIPES, progress=show)
        check(out, CheckSettings({"max_drop": 1.0}), progress=show)
    return out


def require_same(source: Manifest, settings: ShrinkSettings, out: Path) -> None:
    """A run of an earlier call has to be what this one would make."""
    found = read_manifest(open_run(out))
    made_from = None if found.parent is None else found.parent.model_sha256
    if made_from != source.model_sha256 or (found.optimization or {}).get("settings") != asdict(settings):
        raise click.UsageError(f"expected {out} to be made from the same model and settings; remove it")


def rows(run: Path, out: Path) -> list[dict[str, Any]]:
    """One line per artefact."""
    result = read_manifest(open_run(out))
    checked = json.loads(open_run(out).check.read_text())
    done = result.optimization or {}
    return [
        {
            "run": run.name,
            "seed": result.seed,
            "method": done["method"],
            "artefact": item["name"],
            "image_size_px": result.image_size_px,
            "multiply_add_ratio": done["multiply_add_ratio"],
            "parameter_ratio": done["parameter_ratio"],
            "size_bytes": item["size_bytes"],
            "val_accuracy": result.training.val_accuracy,
            "reference_accuracy": checked["reference"]["accuracy"],
            "accuracy": item["accuracy"],
            "accuracy_drop": item["accuracy_drop"],
            "agreement": item["agreement"],
            "n_images": item["n"],
            "optimize_s": result.timings_s["optimize"],
        }
        for item in checked["artefacts"]
    ]


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--target",
    "targets",
    multiple=True,
    default=("low-rank:12:17.5:auto:160", "filters:5:15.5:auto:160", "filters:0:0:block4_pool:160"),
    show_default=True,
)
@click.option("--folder", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
def main(runs: tuple[Path, ...], targets: tuple[str, ...], folder: Path, out: Path) -> None:
    """Write one CSV line per run, target and artefact, again after each, so that nothing is lost."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    for run in runs:
        opened = open_run(run)
        images = RunImages(opened, read_manifest(opened))
        for target in targets:
            lines += rows(run, made(run, images, target, folder))
            with out.open("w", newline="") as file:
                writer = csv.DictWriter(file, lines[0])
                writer.writeheader()
                writer.writerows(lines)


if __name__ == "__main__":
    main()
