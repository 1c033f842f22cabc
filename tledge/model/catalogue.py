"""The catalogue: TOML files that say what there is to transfer from, what it learned from, and how it is got."""

from __future__ import annotations

import tomllib
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tledge.core.errors import WeightsError

Modality = Literal["image", "text"]
TrunkSource = Literal["imagenet", "package", "user"]

_TEXTS = ("title", "architecture", "source", "domain", "input", "licence", "obtain")
_TRUNK_KEYS: dict[TrunkSource, set[str]] = {
    "imagenet": {"from", "digest"},
    "package": {"from", "digest", "package", "file", "extra"},
    "user": {"from"},
}


@dataclass(frozen=True)
class CatalogueTrunk:
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


@dataclass(frozen=True)
class Paper:
    """A publication."""

    title: str
    url: str


@dataclass(frozen=True)
class Candidate:
    """One pre-trained model. Texts are one line each; `trunk` is None for what tledge cannot train."""

    name: str
    modality: Modality
    title: str
    architecture: str
    source: str
    domain: str
    input: str
    licence: str
    obtain: str
    trunk: CatalogueTrunk | None
    papers: tuple[Paper, ...]


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
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"expected TOML in {path}, but it cannot be parsed ({error}); correct the file") from None
    _require_keys(path, "the top level", content, {"modality", "papers", *_TEXTS}, optional={"trunk"})
    for key in _TEXTS:
        _require(path, isinstance(content[key], str) and content[key].strip(), f"{key} as text", content[key])
    modality = content["modality"]
    _require(path, modality in get_args(Modality), "modality image or text", modality)
    _require(path, (modality == "image") == ("trunk" in content), "[trunk] for images, none for text", modality)
    papers = content["papers"]
    _require(path, isinstance(papers, list) and papers, "one or more tables [[papers]]", papers)
    for paper in papers:
        _require_keys(path, "[[papers]]", paper, {"title", "url"})
    return Candidate(
        name=path.stem,
        modality=modality,
        **{key: content[key] for key in _TEXTS},
        trunk=_trunk(path, content["trunk"]) if "trunk" in content else None,
        papers=tuple(Paper(**paper) for paper in papers),
    )


def _trunk(path: Path, table: dict[str, Any]) -> CatalogueTrunk:
    source: TrunkSource = table.get("from")  # type: ignore[assignment]  # checked on the next line
    _require(path, source in _TRUNK_KEYS, f"trunk.from {', '.join(_TRUNK_KEYS)}", source)
    _require_keys(path, "[trunk]", table, _TRUNK_KEYS[source])
    return CatalogueTrunk(source=source, **{key: value for key, value in table.items() if key != "from"})


def _require_keys(
    path: Path, where: str, table: dict[str, Any], known: set[str], optional: Set[str] = frozenset()
) -> None:
    if wrong := sorted((table.keys() - known - optional) | (known - table.keys())):
        expected = ", ".join(sorted(known))
        raise WeightsError(f"expected {expected} at {where} of {path}, but {', '.join(wrong)} differs; correct it")


def _require(path: Path, right: object, expected: str, came: object) -> None:
    if not right:
        raise WeightsError(f"expected {expected} in {path}, but got {came!r}; correct the file")
