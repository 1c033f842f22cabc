"""What a training step takes by number format, with XLA and without: all in one process, in interleaved rounds.

    python benchmarks/train_compute.py [IMAGE_SIZE_PX] [BATCH] [ROUNDS]

Every layer of VGG16 with head `flatten` trains, on random pixels: time does not depend on what they show. A round is a
few steps of each variant in an order drawn for it; the first round, in which steps are traced and compiled, is told by
itself. Formats that this machine emulates are left out. Prints CSV: the median over rounds of milliseconds per step,
the least and the greatest, and the median over rounds of the ratio to float32 without XLA in the same round.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import numpy as np

from tledge.core.dependencies import require_tensorflow
from tledge.core.types import COMPUTE_TYPES
from tledge.model.compute import computing_in, lacking, optimizer_of
from tledge.model.vgg16 import build

STEPS = 2


def step_of(size: int, batch: int, compute: Any, xla: bool) -> Any:
    """One training step as a function without arguments."""
    tf, _ = require_tensorflow()
    pixels = tf.constant(np.random.default_rng(0).integers(0, 256, (batch, size, size, 3)), tf.float32)
    labels = tf.constant(np.arange(batch) % 3)
    model = build(3, size, "flatten", None, seed=0)
    with computing_in(model, compute):
        model.compile(
            optimizer_of(3e-5, compute), loss="sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=xla
        )
        model.make_train_function()
        step = model.train_function
        step(iter([(pixels, labels)]))
    return lambda: step(iter([(pixels, labels)]))


def main() -> None:
    """Measure and print."""
    size, batch, rounds = (int(text) for text in (*sys.argv[1:], *("96", "16", "10")[len(sys.argv) - 1 :]))
    variants = [(compute, xla) for compute in COMPUTE_TYPES if lacking(compute) is None for xla in (False, True)]
    steps, first_ms = {}, {}
    for variant in variants:
        started = time.perf_counter()
        steps[variant] = step_of(size, batch, *variant)
        first_ms[variant] = 1e3 * (time.perf_counter() - started)
    times: dict[Any, list[float]] = {variant: [] for variant in variants}
    for number in range(rounds):
        for variant in random.Random(number).sample(variants, len(variants)):
            started = time.perf_counter()
            for _ in range(STEPS):
                steps[variant]()
            times[variant].append(1e3 * (time.perf_counter() - started) / STEPS)
    print("image_size_px,batch,compute,xla,rounds,first_step_ms,step_ms,least_ms,greatest_ms,ratio_to_float32")
    for variant in variants:
        found = np.asarray(times[variant])
        ratio = float(np.median(found / np.asarray(times["float32", False])))
        numbers = f"{np.median(found):.0f},{found.min():.0f},{found.max():.0f},{ratio:.2f}"
        print(f"{size},{batch},{variant[0]},{variant[1]},{rounds},{first_ms[variant]:.0f},{numbers}", flush=True)


if __name__ == "__main__":
    main()
