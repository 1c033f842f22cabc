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
from functools import partial
from pathlib import Path
from typing import Protocol, TextIO, TypeVar

import numpy as np

from tledge.core.dependencies import require, require_tensorflow
from tledge.core.errors import FixedBatchError, TledgeError
from tledge.runtimes import ImageClassifier, open_classifier
from tledge.runtimes.options import RuntimeOptions
from tledge.runtimes.tensors import TensorRunner, open_tensors
from tledge.runtimes.tflite_compiled import CompiledClassifier

_MODULES = {".tflite": "ai_edge_litert.interpreter", ".onnx": "onnxruntime", ".ort": "onnxruntime"}


class Measured(Protocol):
    """What a measurement needs of a loaded model."""

    runtime: str

    def invoke(self) -> None:
        """Run once on the bound input."""
        ...


M = TypeVar("M", bound=Measured)


def main(open_model: Callable[[Path, int], ImageClassifier] = open_classifier) -> None:
    """Serve measurements of an image classifier until told to stop.

    Args:
        open_model: from a file and a number of threads to a classifier; a script for another runtime passes its own.
    """
    if len(sys.argv) > 5:
        options = RuntimeOptions.from_json(sys.argv[5])
        if options.weight_cache:
            serve(partial(CompiledClassifier, weight_cache=options.weight_cache), _bind_pixels)
            return
        open_model = partial(open_classifier, options=options)
    serve(open_model, _bind_pixels)


def _bind_pixels(classifier: ImageClassifier | CompiledClassifier, batch: int, rng: np.random.Generator) -> None:
    side = classifier.image_size_px
    classifier.prepare(rng.integers(0, 256, (batch, side, side, 3), np.uint8))


def serve(open_model: Callable[[Path, int], M], bind: Callable[[M, int, np.random.Generator], None]) -> None:
    """Serve measurements until told to stop.

    Args:
        open_model: from a file and a number of threads to a loaded model.
        bind: gives it a random input of a batch size.
    """
    model, threads, batch, seed = Path(sys.argv[1]), *(int(argument) for argument in sys.argv[2:5])
    # Native libraries write to the process's output as they please; the answers get a stream of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        classifier, hello = _load(open_model, bind, model, threads, batch, seed)
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
    open_model: Callable[[Path, int], M],
    bind: Callable[[M, int, np.random.Generator], None],
    model: Path,
    threads: int,
    batch: int,
    seed: int,
) -> tuple[M, dict[str, object]]:
    # Importing a runtime is not loading a model: do it before the clock starts.
    if model.suffix == ".keras":
        require_tensorflow()
    elif model.suffix in _MODULES:
        require(_MODULES[model.suffix])
    rss_before = _peak_rss_mb()
    started = time.perf_counter()
    classifier = open_model(model, threads)
    loaded = time.perf_counter()
    bind(classifier, batch, np.random.default_rng(seed))
    first = time.perf_counter()
    classifier.invoke()
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


def _bind_tensors(classifier: TensorRunner, batch: int, rng: np.random.Generator) -> None:
    classifier.prepare_random(batch, rng)


if __name__ == "__main__":
    if sys.argv[1] == "--tensors":
        del sys.argv[1]
        serve(open_tensors, _bind_tensors)
    else:
        main()
