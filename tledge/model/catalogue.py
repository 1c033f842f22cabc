"""The catalogue: TOML files that say what there is to transfer from, what it learned from, and how it is got."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from tledge.core.errors import WeightsError
from tledge.core.records import Line, Table, read_toml

Modality = Literal["image", "text"]
TrunkSource = Literal["imagenet", "package", "user"]

_WITH_SOURCE: dict[TrunkSource, tuple[str, ...]] = {
    "imagenet": ("digest",),
    "package": ("digest", "package", "file", "extra"),
    "user": (),
}


class CatalogueTrunk(Table, frozen=True, kw_only=True, rename={"source": "from"}):
    """How the convolutions of a candidate are got.

    `source` is `imagenet` (Keras or its packaged copy), `package` (`file` inside an installed package, which `extra`
    brings; its code never runs) or `user` (made and registered by the user). `digest` is the SHA-256 of the 26 tensors,
    None where the file is the user's.
    """

    source: TrunkSource
    digest: str | None = None
    package: str | None = None
    file: str | None = None
    extra: str | None = None

    def __post_init__(self) -> None:
        given = tuple(name for name in _WITH_SOURCE["package"] if getattr(self, name) is not None)
        if given != _WITH_SOURCE[self.source]:
            wanted = ", ".join(_WITH_SOURCE[self.source]) or "nothing else"
            came = ", ".join(given) or "none"
            raise ValueError(f'expected {wanted} beside from = "{self.source}", but got {came}')


class Paper(Table, frozen=True, kw_only=True):
    """A publication."""

    title: Line
    url: Line


class CatalogueEntry(Table, frozen=True, kw_only=True):
    """One pre-trained model, as its file has it; `trunk` is None for what tledge cannot train."""

    modality: Modality
    title: Line
    architecture: Line
    source: Line
    domain: Line
    input: Line
    licence: Line
    obtain: Line
    trunk: CatalogueTrunk | None = None
    papers: Annotated[tuple[Paper, ...], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        if (self.modality == "image") != (self.trunk is not None):
            came = "[trunk]" if self.trunk is not None else "none"
            raise ValueError(f'expected [trunk] for modality "image" only, but got {came} for "{self.modality}"')


class Candidate(CatalogueEntry, frozen=True, kw_only=True):
    """The same under the name of its file."""

    name: str


def catalogue_folder() -> Path:
    """Where the catalogue is: beside the code in a wheel, in `catalogue/` in a source tree."""
    packaged = Path(__file__).parents[1] / "_catalogue"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "catalogue"


def catalogue_names() -> tuple[str, ...]:
    """Names of the candidates, sorted; no file is parsed."""
    return tuple(sorted(path.stem for path in catalogue_folder().glob("*.toml")))


def load_catalogue() -> tuple[Candidate, ...]:
    """Read every candidate, sorted by name.

    Raises:
        WeightsError: a file is malformed.
    """
    return tuple(load_candidate(catalogue_folder() / f"{name}.toml") for name in catalogue_names())


def load_candidate(path: Path) -> Candidate:
    """Read one candidate from its TOML file.

    Raises:
        WeightsError: not TOML, a key is missing, unknown or of the wrong kind.
    """
    entry = read_toml(path, CatalogueEntry, WeightsError)
    return Candidate(name=path.stem, **msgspec.structs.asdict(entry))
