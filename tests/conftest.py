"""Shared fixtures: small folders of real pictures, and finished runs at 32 px, of a thin and of the whole VGG16."""

from __future__ import annotations

import ctypes
import gc
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from filelock import FileLock
from PIL import Image

from tledge.core.types import Images, Precision

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A core for each worker: where they share cores, threads of the runtimes wait awake for those of other workers, a fifth
# of all processor time.
_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
if _CORES and (_worker := os.environ.get("PYTEST_XDIST_WORKER", "")):
    os.sched_setaffinity(0, {_CORES[int(_worker.removeprefix("gw")) % len(_CORES)]})
# No test, nor a fixture of the whole session, sees or changes the trunks and features that the user keeps.
_OWN = tempfile.TemporaryDirectory(prefix="tledge-tests-")
os.environ["XDG_DATA_HOME"], os.environ["XDG_CACHE_HOME"] = f"{_OWN.name}/data", f"{_OWN.name}/cache"

_GROWTH_BYTES, _MODULE_GROWTH_BYTES = 500_000_000, 100_000_000
_kept_bytes = [1_500_000_000]
"""Memory after the last collection; before the first one, about what TensorFlow and one model take."""

PHOTOS = Path(__file__).parents[2] / "shared" / "photos"


def pytest_collection_finish() -> None:
    """What the modules hold stays for good: collections of the session need not look at all of TensorFlow again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees another test's trunks and features."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user-data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture(autouse=True)
def no_probe(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of unknown origin are opened without the process that tries them first, which takes half a second each.

    Tests of that take the fixture `probe`.
    """
    if "probe" not in request.fixturenames:
        for place in ("tledge.runtimes.files.require_answering", "tledge.model.weight_files.require_readable_hdf5"):
            monkeypatch.setattr(place, lambda path, digest: None)


@pytest.fixture
def probe() -> None:
    """Files of unknown origin are tried in a process of their own, as they are outside of tests."""


@pytest.fixture
def every_core() -> Iterator[None]:
    """For tests of several threads: what they start may use all cores."""
    if not _CORES:
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _CORES)
    yield
    os.sched_setaffinity(0, own)


def write_digits(folder: Path, per_class: int, classes: tuple[int, ...] = (0, 1, 7)) -> Path:
    """A data folder of scikit-learn's handwritten digits, `per_class` of each class."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in classes:
        target = folder / f"digit {label}"
        target.mkdir(parents=True, exist_ok=True)
        for number, index in enumerate(np.flatnonzero(digits.target == label)[:per_class]):
            pixels = np.round(digits.images[index] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).resize((40, 40)).save(target / f"{number:03d}.png")
    return folder


def untrained_classifier(classes: int, side_px: int) -> Any:
    """VGG16 with random weights that gives every class a score of its own, in the form that is exported."""
    keras = pytest.importorskip("keras")
    from tledge.model.inference import inference_graph
    from tledge.model.vgg16 import build

    model = build(classes, side_px, "flatten", weights=None, seed=3)
    prediction = model.get_layer("prediction")
    # Unscaled, random weights saturate the softmax, and equal scores would prove nothing.
    prediction.set_weights([weights * 0.02 for weights in prediction.get_weights()])
    pixels = keras.Input((side_px, side_px, 3), batch_size=1, name="image")
    return keras.Model(pixels, inference_graph(model).run(pixels))


def converted(
    fmt: str,
    precision: Precision,
    model: Any,
    labels: tuple[str, ...],
    images: Images | None = None,
    *,
    lineage: dict[str, str] | None = None,
    **options: Any,
) -> bytes:
    """A Keras model or a graph as a file; `images` calibrate one that computes in integers."""
    from tledge.conversion.calibration import calibrate
    from tledge.conversion.format import ExportRequest
    from tledge.conversion.registry import FORMATS
    from tledge.model.graph import Graph
    from tledge.model.inference import inference_graph

    graph = model if isinstance(model, Graph) else inference_graph(model)
    request = ExportRequest(
        name=f"{fmt}-{precision}",
        precision=precision,
        graph=graph,
        float_model=FORMATS[fmt].float_model(graph),
        labels=labels,
        lineage=lineage or {"tledge": "0"},
        calibration=None if images is None else calibrate(graph, images),
        **options,
    )
    return FORMATS[fmt].convert(request)


def run_process(
    *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`tledge ARGUMENTS` in a process of its own, for tests where that matters; it takes seconds to start."""
    return subprocess.run(
        [sys.executable, "-m", "tledge", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        timeout=600,
        check=False,
    )


def run_cli(
    *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`tledge ARGUMENTS` as the console script runs it, in this process: TensorFlow is loaded already.

    An exception that nobody foresaw, which would be exit code 3, reaches the test.
    """
    from tledge.cli import main, unexpected

    words = list(map(str, arguments))
    stdout, stderr = io.StringIO(), io.StringIO()
    code: object = 0
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.setattr(sys, "argv", ["tledge", *words])
        patch.setattr(unexpected, "told", _raise)
        if cwd is not None:
            patch.chdir(cwd)
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    assert isinstance(code, int)
    return subprocess.CompletedProcess(words, code, stdout.getvalue(), stderr.getvalue())


def _raise(error: BaseException, _command: str) -> str:
    raise error


@pytest.fixture(autouse=True, scope="module")
def forget_models() -> Iterator[None]:
    """TensorFlow and Keras keep graphs and models of the session; a worker would grow by gigabytes."""
    yield
    if _grown_bytes() > _MODULE_GROWTH_BYTES:
        if "keras" in sys.modules:
            sys.modules["keras"].utils.clear_session()
        _give_back_memory()


@pytest.fixture(autouse=True)
def stay_small() -> Iterator[None]:
    """Models in reference cycles wait for a collection that few, large objects do not bring about.

    A collection looks at all of TensorFlow for half a second: worth it where memory has grown since the last one.
    """
    yield
    if _grown_bytes() > _GROWTH_BYTES:
        _give_back_memory()


def _grown_bytes() -> int:
    return int(psutil.Process().memory_info().rss) - _kept_bytes[0]


def _give_back_memory() -> None:
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
    _kept_bytes[0] = psutil.Process().memory_info().rss


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A name of its own, so that the folder stands in the same place in every worker.
    return write_digits(tmp_path_factory.mktemp("digits-of-session") / "digits", 20)


@pytest.fixture(scope="session")
def finished_run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and exported run that no test may change: VGG16 at 32 px with an eighth of its filters.

    Most tests are of what is done with a run, whatever its model is, and its files take a 64th of the time to hash,
    pack, send and load. Tests of the model itself take `vgg16_run`.
    """
    with pytest.MonkeyPatch.context() as patch:
        make_vgg16_thin(patch)
        return _made_once("finished", digits, "random", tmp_path_factory)


@pytest.fixture
def thin_vgg16(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of training that need no known weights: what is trained has an eighth of VGG16's filters."""
    make_vgg16_thin(monkeypatch)


def make_vgg16_thin(patch: pytest.MonkeyPatch) -> None:
    from tledge.model import vgg16

    patch.setattr(vgg16, "BLOCKS", tuple(tuple(filters // 8 for filters in block) for block in vgg16.BLOCKS))


@pytest.fixture(scope="session")
def vgg16_run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the whole VGG16 with its ImageNet weights."""
    return _made_once("vgg16", digits, "imagenet", tmp_path_factory)


def _made_once(name: str, data: Path, weights: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that the first worker that needs it makes, and the others copy."""
    import tledge

    out = tmp_path_factory.mktemp("runs-of-session") / name
    base = tmp_path_factory.getbasetemp()
    kept = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"{name}-run"
    with FileLock(f"{kept}.lock"):
        if kept.is_dir():
            shutil.copytree(kept, out)
        else:
            tledge.train(data, technique="feature-extraction", weights=weights, out=out, image_size=32, epochs=60)
            tledge.export(out)
            shutil.copytree(out, kept)
    return out


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished run for a test that changes it; gone after it, since hundreds would fill a disk."""
    target = finished_run.parent / f"copy-{tmp_path.name}"
    shutil.copytree(finished_run, target)
    yield target
    shutil.rmtree(target, ignore_errors=True)
