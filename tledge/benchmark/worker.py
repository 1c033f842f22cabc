"""One model in a process of its own, measured on command.

`python -m tledge.benchmark.worker [--tensors] MODEL THREADS BATCH SEED [OPTIONS]` prints one JSON line when the model
is loaded and has run once, then one per line read from its input: `measure WARMUP WARMUP_MS SAMPLES` or `stop`. Between
commands it only waits. OPTIONS is what `RuntimeOptions.as_json` writes. Without --tensors the model is an image
classifier, measured on random pictures; with it, any model file on random tensors.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TextIO, TypeVar

import numpy as np

from tledge.core.errors import ArtefactError, FixedBatchError, TledgeError
from tledge.core.image_size import height_width
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier, open_classifier
from tledge.runtimes.adapter import RuntimeAdapter, Tensor, TensorSpec
from tledge.runtimes.options import DEFAULT_OPTIONS, RuntimeOptions
from tledge.runtimes.registry import open_adapter, runtime_of


class Measured(Protocol):
    """What a measurement needs of a loaded model."""

    runtime: str

    def invoke(self) -> None:
        """Run once on the bound input."""
        ...


M = TypeVar("M", bound=Measured)


Opener = Callable[[Path, int, RuntimeOptions], M]
Binder = Callable[[M, Path, int, np.random.Generator], None]


def serve_classifier(opener: Opener[ImageClassifier]) -> None:
    """Serve measurements of an image classifier until told to stop; `opener` loads it."""
    serve(opener, _bind_pixels)


def _open(path: Path, threads: int, options: RuntimeOptions) -> ImageClassifier:
    return open_classifier(path, MODEL_OF_A_RUN, threads, options)


def _bind_pixels(classifier: ImageClassifier, _: Path, batch: int, rng: np.random.Generator) -> None:
    classifier.prepare(rng.integers(0, 256, (batch, *height_width(classifier.image_size_px), 3), np.uint8))


def _bind_tensors(adapter: RuntimeAdapter, path: Path, batch: int, rng: np.random.Generator) -> None:
    """Bind random values to any number of inputs of any shape, only whose batch may be open.

    Raises:
        FixedBatchError: its batch is another one.
        ArtefactError: it has an open size that is not the batch, or fails on the input.
    """
    adapter.bind([_random(path, spec, _shape(path, spec, batch), rng) for spec in adapter.inputs])


def _shape(path: Path, spec: TensorSpec, batch: int) -> tuple[int, ...]:
    sizes = [n for n in (spec.shape or (None, None))[1:] if n is not None]
    if spec.shape is None or len(sizes) != len(spec.shape[1:]):
        raise ArtefactError(
            f"expected a file whose only open size is the batch, but {path} takes {spec.shape}; fix its shape first"
        )
    if not spec.shape:
        return ()
    # A file of a fixed batch is measured as it is if nobody asks for another one.
    fixed = spec.shape[0]
    return (batch if fixed is None or batch != 1 else fixed, *sizes)


def _random(path: Path, spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Floats of 0..1, integers over their range but no larger than 255."""
    kind = spec.dtype
    if kind.kind == "f":
        return np.asarray(rng.random(shape), kind)
    if kind.kind in "iu":
        low, high = max(np.iinfo(kind).min, -128 if kind.itemsize == 1 else 0), min(np.iinfo(kind).max, 255)
        return np.asarray(rng.integers(low, high, shape, endpoint=True), kind)
    if kind.kind == "b":
        return rng.random(shape) < 0.5
    raise ArtefactError(f"expected numbers as input of {path}, but it takes {spec.type_name or kind.name}")


def serve(opener: Opener[M], bind: Binder[M]) -> None:
    """Serve measurements until told to stop.

    Args:
        opener: from a file, a number of threads and options to a loaded model.
        bind: gives it, and its file for messages, a random input of a batch size.
    """
    model, threads, batch, seed = Path(sys.argv[1]), *(int(argument) for argument in sys.argv[2:5])
    options = RuntimeOptions.from_json(sys.argv[5]) if len(sys.argv) > 5 else DEFAULT_OPTIONS
    # Native libraries write to the process's output as they please; the answers get a stream of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        classifier, hello = _load(opener, bind, model, threads, options, batch, seed)
    except TledgeError as error:
        _say(answers, {"error": str(error), "fixed_batch": isinstance(error, FixedBatchError)})
        return
    _say(answers, hello)
    for line in sys.stdin:
        command, *numbers = line.split()
        if command == "stop":
            break
        warmup, warmup_ms, samples = (int(number) for number in numbers)
        done = _warm_up(classifier, warmup, warmup_ms)
        _say(answers, {"warmup": done, "samples_ms": _measure(classifier, samples)})
    _say(answers, {"peak_rss_mb": round(_peak_rss_mb(), 1)})


def _load(
    opener: Opener[M],
    bind: Binder[M],
    model: Path,
    threads: int,
    options: RuntimeOptions,
    batch: int,
    seed: int,
) -> tuple[M, dict[str, object]]:
    # Importing a runtime is not loading a model: do it before the clock starts. Who serves files of another runtime has
    # imported it, and whatever nobody opens is refused below.
    with suppress(ArtefactError):
        runtime_of(model, options).load()
    rss_before = _peak_rss_mb()
    started = time.perf_counter()
    classifier = opener(model, threads, options)
    loaded = time.perf_counter()
    bind(classifier, model, batch, np.random.default_rng(seed))
    first = time.perf_counter()
    try:
        classifier.invoke()
    except ArtefactError as error:
        raise error if batch == 1 else FixedBatchError(str(error)) from None
    done = time.perf_counter()
    return classifier, {
        "runtime": classifier.runtime,
        "load_ms": 1e3 * (loaded - started),
        "first_ms": 1e3 * (done - first),
        "rss_before_load_mb": round(rss_before, 1),
    }


def _warm_up(classifier: Measured, fewest: int, shortest_ms: int) -> int:
    end = time.perf_counter() + shortest_ms / 1e3
    done = 0
    while done < fewest or time.perf_counter() < end:
        classifier.invoke()
        done += 1
    return done


def _measure(classifier: Measured, samples: int) -> list[float]:
    times = []
    for _ in range(samples):
        started = time.perf_counter()
        classifier.invoke()
        times.append(1e3 * (time.perf_counter() - started))
    return times


def _peak_rss_mb() -> float:
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage would count the memory of the parent, which a forked child shares until it starts its own program.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _say(answers: TextIO, message: dict[str, object]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    if sys.argv[1] == "--tensors":
        del sys.argv[1]
        serve(open_adapter, _bind_tensors)
    else:
        serve_classifier(_open)
