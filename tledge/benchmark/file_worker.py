"""As `bench_worker`, for any model file: random tensors instead of pictures."""

from __future__ import annotations

import numpy as np

from tledge.benchmark.worker import serve
from tledge.runtimes.tensors import TensorRunner, open_tensors


def _bind(classifier: TensorRunner, batch: int, rng: np.random.Generator) -> None:
    classifier.prepare_random(batch, rng)


if __name__ == "__main__":
    serve(open_tensors, _bind)
