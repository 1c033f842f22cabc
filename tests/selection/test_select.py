"""`tledge select`, and trainings that follow it: small images, the real VGG16 at 32 px."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tledge
from tests.conftest import run_cli, write_digits
from tests.data.test_modality import write_texts
from tledge.core.errors import DataError, RunError, SettingsError, WeightsError
from tledge.core.types import TechniqueName
from tledge.data.listing import ImageFile
from tledge.data.scan import list_images
from tledge.selection.domain import describe
from tledge.selection.evidence import DepthEvidence, TrunkEvidence, linear_probe, nearest_neighbours
from tledge.selection.features import FeatureCache
from tledge.selection.sample import draw, listing_digest
from tledge.selection.select import ImageSelection, TextSelection
from tledge.selection.select_json import Recommendation, read_selection, recommendation_of
from tledge.selection.technique import advise, depth_used, recommended
from tledge.stats.metrics import proportion
from tledge.training.auto import _misfit
from tledge.training.settings import TrainSettings

pytest.importorskip("tensorflow")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_digits(tmp_path / "my data", 12)


def selected(data: Path, **others: object) -> ImageSelection:
    found = tledge.select(data, image_size=32, **others)
    assert isinstance(found, ImageSelection)
    return found


def test_digits_are_ranked_and_written_down(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "select.json"
    found = selected(data, out=out, images=30)
    assert {trunk.name for trunk in found.ranked} == {"vgg16-imagenet", "vgg16-bsds500", "random"}
    scores = [depth_used(trunk, found.technique).logme for trunk in found.ranked]
    assert scores == sorted(scores, reverse=True)
    assert found.weights == next(trunk.name for trunk in found.ranked if trunk.name != "random")
    content = json.loads(out.read_text())
    assert content["sample"]["images"] == 30
    # 12 of each, of which a split keeps 2 for validation and 2 for the test.
    assert content["data"]["training_images_per_class"] == {"digit 0": 8, "digit 1": 8, "digit 7": 8}
    assert [one["name"] for one in content["candidates"]] == [trunk.name for trunk in found.ranked]
    for one in content["candidates"]:
        assert len(one["digest"]) == 64
        assert [depth["depth"] for depth in one["depths"]] == ["block3_pool", "block4_pool", "block5_pool"]
        assert all(depth["linear_probe"]["n"] == 30 for depth in one["depths"])
    refused = {one["name"]: one["reason"] for one in content["refused"]}
    assert refused["bert"] == refused["ulmfit"] == "reads text, the data are images"
    assert "tledge weights add vgg16-mnist" in refused["vgg16-mnist"]
    advice = found.technique
    assert (content["recommendation"]["technique"], content["recommendation"]["weights"]) == (
        advice.technique,
        found.weights,
    )
    assert any("grey" in note for note in found.domain.notes)
    assert "the images are tiny (median 40 px)" in found.domain.notes  # 32 px is the smallest input there is


def test_the_second_time_nothing_is_computed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = selected(data, candidates=["vgg16-imagenet", "random"])

    def forbidden(*_: object) -> None:
        raise AssertionError("the features are kept")

    monkeypatch.setattr("tledge.selection.features.pooled_features", forbidden)
    monkeypatch.setattr("tledge.model.weights.resolve", forbidden)
    second = selected(data, candidates=["vgg16-imagenet", "random"])
    for before, after in zip(first.ranked, second.ranked, strict=True):
        assert [d.logme for d in before.depths] == [d.logme for d in after.depths]
        assert (before.cached_images, after.cached_images) == (0, 36)


def test_training_takes_over_the_features_and_gives_the_same_head(data: Path, tmp_path: Path) -> None:
    settings = {"technique": "feature-extraction", "image_size": 32, "epochs": 3}
    fresh = tledge.train(data, out=tmp_path / "fresh", **settings)
    assert fresh.manifest.training.prefix_cached == 0
    FeatureCache(str(fresh.manifest.weights.digest), 32, "float32").path.unlink()
    selected(data, candidates=["vgg16-imagenet"], images=20)
    warm = tledge.train(data, out=tmp_path / "warm", **settings)
    assert 5 <= warm.manifest.training.prefix_cached <= 20
    images = warm.manifest.split.images
    computed = images["train"] + images["val"] - warm.manifest.training.prefix_cached
    assert warm.manifest.training.prefix_images == computed > 0
    assert warm.manifest.training.val_loss == pytest.approx(fresh.manifest.training.val_loss, rel=1e-3)


def test_a_head_on_all_positions_does_not_take_their_means(data: Path, tmp_path: Path) -> None:
    selected(data, candidates=["vgg16-imagenet"])
    settings = {"technique": "feature-extraction", "head": "flatten", "image_size": 32, "epochs": 1}
    run = tledge.train(data, out=tmp_path / "run", **settings)
    assert run.manifest.training.prefix_cached == 0


def test_auto_makes_a_selection_from_training_images_and_says_why(data: Path, tmp_path: Path) -> None:
    trained = tledge.train(data, technique="auto", weights="auto", out=tmp_path / "run", image_size=32, epochs=2)
    manifest = trained.manifest
    content = json.loads((tmp_path / "run" / "select.json").read_text())
    chosen = content["recommendation"]
    assert manifest.technique == manifest.settings["technique"] == chosen["technique"]
    assert manifest.weights.requested == "auto"
    why = manifest.weights.selection
    assert why["from"] == "made from the training images"
    assert why["weights"].startswith(f"{chosen['weights']}: highest LogME")
    assert why["technique"].startswith(f"{chosen['technique']}: few images")
    known = {one["name"]: one["digest"] for one in content["candidates"]}
    assert chosen["weights"] != "random"
    assert manifest.weights.digest == known[chosen["weights"]]
    assert content["sample"]["images"] <= manifest.split.images["train"]
    assert content["data"]["training_images_per_class"] == manifest.split.images_per_class["train"]


@pytest.mark.slow
def test_auto_follows_a_selection_about_the_same_images(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "select.json"
    selected(data, out=out, candidates=["random"])
    monkeypatch.chdir(tmp_path)
    settings = {"technique": "feature-extraction", "weights": "auto", "image_size": 32, "epochs": 1}
    trained = tledge.train(data, out=tmp_path / "run", **settings)
    assert trained.manifest.weights.selection["from"] == str(out)
    assert trained.manifest.weights.source == "random"
    Image.new("RGB", (8, 8)).save(data / "digit 0" / "new.png")
    anew = tledge.train(data, out=tmp_path / "anew", **settings)
    assert anew.manifest.weights.selection["from"] == "made from the training images"
    with pytest.raises(SettingsError, match="other images"):
        tledge.train(data, out=tmp_path / "refused", selection=str(out), **settings)
    assert not (tmp_path / "refused").exists()


def recommendation(data: Path, weights: str = "random") -> Recommendation:
    listing = list_images(data)
    seen = draw(listing.root, listing.files, 128, 0).digest
    scores, digests = {weights: (0.1, 0.2, 0.3)}, {weights: "0" * 64}
    about = (32, "stretch", 128, 0, listing_digest(listing), seen)
    return Recommendation(weights, "0" * 64, "freeze", None, "", "", "", *about, scores, digests)


def test_a_selection_of_other_bytes_or_another_size_does_not_fit(data: Path) -> None:
    listing, found = list_images(data), recommendation(data)
    settings = TrainSettings("auto", weights="auto", image_size=32)
    assert _misfit(settings, listing, found) is None
    assert _misfit(replace(settings, image_size=64), listing, found) == "saw images at 32 px, not at 64"
    cropped = replace(settings, resize="crop")
    assert _misfit(cropped, listing, found) == "saw images with --resize stretch, not crop"
    path = data / "digit 0" / "000.png"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1  # the name and the size stay
    path.write_bytes(content)
    assert found.data_digest == listing_digest(listing)
    assert _misfit(settings, listing, found) == "is about other images"


def test_a_selection_that_does_not_fit_ends_it_before_images_are_decoded(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "select.json"
    selected(data, out=out, candidates=["random"], images=6)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("nothing is decoded")

    monkeypatch.setattr("tledge.training.train.decode_and_split", forbidden)
    settings = {"technique": "auto", "weights": "auto", "selection": str(out), "out": tmp_path / "run"}
    with pytest.raises(SettingsError, match="saw images at 32 px, not at 64"):
        tledge.train(data, image_size=64, **settings)
    content = json.loads(out.read_text())
    content["recommendation"]["freeze_until"] = 14
    out.write_text(json.dumps(content))
    with pytest.raises(
        RunError, match=r"expected recommendation\.freeze_until as text or null in .*select\.json, but got 14; run"
    ):
        tledge.train(data, image_size=32, **settings)


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        (
            ("recommendation", "freeze_until"),
            14,
            "expected recommendation.freeze_until as text or null in {}, but got 14",
        ),
        (("recommendation", "technique"), "magic", "but got 'magic'"),
        (
            ("recommendation", "weights"),
            ["a"],
            'recommendation.weights as text in {}, but got ["a"]; run',
        ),
        (("recommendation", "weights"), "gone", "expected gone and 3 depths of each trunk in {}"),
        (("settings", "image_size"), "32", "settings.image_size as a whole number in {}, but got '32'"),
        (("settings",), None, "expected settings as an object in {}, but got null"),
        (("candidates",), {"a": 1}, 'expected candidates as a list of objects in {}, but got {"a": 1}'),
        (("candidates", 0, "depths"), [], "3 depths"),
        (("candidates", 0, "depths", 0, "logme"), "high", "candidates[0].depths[0].logme as a number in {}, but got"),
        (("modality",), "text", "expected modality as \"image\" in {}, but got 'text'"),
        (("schema_version",), 0, "expected schema version 1 in {}, but it says 0"),
    ],
)
def test_a_selection_with_values_of_another_kind_is_refused(
    data: Path, tmp_path: Path, where: tuple[str | int, ...], value: object, says: str
) -> None:
    path = tmp_path / "select.json"
    path.write_text(json.dumps(whole_selection()))
    assert recommendation_of(read_selection(path)).weights == "a"
    content = inner = whole_selection()
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(RunError) as caught:
        read_selection(path)
    assert says.replace("{}", str(path), 1) in str(caught.value)
    assert "\n" not in str(caught.value)


def whole_selection() -> Any:
    share = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    depths = [
        {"depth": depth, "logme": 0.1, "linear_probe": share, "nearest_neighbours": share}
        for depth in ("block3_pool", "block4_pool", "block5_pool")
    ]
    machine = {"cpu": "", "cpu_flags": [], "architecture": "", "cores": 1, "memory_gb": 1, "system": ""}
    trunk = {"name": "a", "digest": "0", "source": "", "best_depth": "block5_pool", "depths": depths}
    advice = {"weights": "a", "digest": "0", "technique": "freeze", "freeze_until": "block4_pool"}
    advice |= {"ranked_by": "best depth", "near_domain": True, "margin": None}
    return {
        "schema_version": 1,
        "created": "",
        "command": "",
        "versions": {},
        "machine": machine,
        "modality": "image",
        "data": {"path": "", "digest": None, "training_images_per_class": {}},
        "sample": {"images": 10, "digest": "0", "copies": 0},
        "settings": {"image_size": 32, "images": 128, "candidates": [], "compute": "float32", "seed": 0},
        "candidates": [trunk | {"seconds": 1, "cached_images": 0}],
        "refused": [],
        "domain": {"grey_share": 0, "median_side_px": 32, "confused": [], "notes": []},
        "recommendation": advice | {"why_weights": "", "why_technique": "", "source": ""},
    }


def test_a_named_technique_ranks_by_the_depth_that_it_uses() -> None:
    early, late = trunk("early", (0.9, 0.1, 0.0)), trunk("late", (0.1, 0.2, 0.3))
    ahead = trunk("random", (1.0, 1.0, 1.0))
    named: TechniqueName
    for named, first in (("feature-extraction", late), ("freeze", early), ("architecture", early)):
        for images in (50, 500, 5000):
            ranked, advice = advise([early, late, ahead], "random", images, named)
            assert recommended(ranked, "random") is first
            assert (advice.technique, advice.freeze_until) == (named, None)


def test_a_selection_is_ranked_again_for_a_named_technique(data: Path) -> None:
    scores = {"early": (0.9, 0.1, 0.0), "late": (0.1, 0.2, 0.3), "random": (1.0, 1.0, 1.0)}
    digests = {name: name * 2 for name in scores}
    found = replace(recommendation(data, "late"), logme=scores, digests=digests)
    assert found.for_technique("feature-extraction").weights == "late"
    again = found.for_technique("freeze")
    assert (again.weights, again.digest, again.technique) == ("early", "earlyearly", "freeze")
    assert "0.900 at best depth" in again.why_weights


def test_a_selection_of_a_trunk_that_is_gone_does_not_fit(data: Path) -> None:
    listing, found = list_images(data), recommendation(data, "mine")
    settings = TrainSettings("auto", weights="auto", image_size=32)
    assert _misfit(settings, listing, found) == "recommends mine, which is not at hand"
    assert _misfit(settings, listing, replace(found, weights="vgg16-imagenet")) == (
        "saw another vgg16-imagenet than there is now"
    )
    assert _misfit(settings, listing, replace(found, weights="random")) is None


def test_auto_chooses_a_technique_for_weights_by_name(data: Path, tmp_path: Path) -> None:
    settings = {"technique": "auto", "weights": "imagenet", "image_size": 32, "epochs": 1}
    trained = tledge.train(data, out=tmp_path / "run", **settings)
    assert trained.manifest.weights.requested == "imagenet"
    content = json.loads((tmp_path / "run" / "select.json").read_text())
    assert [one["name"] for one in content["candidates"]] == ["vgg16-imagenet"]
    assert set(trained.manifest.weights.selection) == {"from", "technique", "source"}
    with pytest.raises(WeightsError, match="expected a name of the list"):
        tledge.train(data, out=tmp_path / "other", **{**settings, "weights": "mine.h5"})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"technique": "auto", "freeze_until": "block3_pool"}, "--freeze-until"),
        ({"technique": "auto", "augment": True}, "--augment"),
        ({"technique": "freeze", "selection": "select.json"}, "--selection"),
    ],
)
def test_options_that_auto_cannot_take(settings: dict[str, object], says: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=says):
        tledge.train(data, out=tmp_path / "run", image_size=32, **settings)


def test_classes_that_look_alike_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("left", "right", "white"):
        (tmp_path / label).mkdir()
        for number in range(10):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8) // (1 if label == "white" else 8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    pairs = selected(tmp_path, candidates=["random"]).domain.confused
    assert {(pair.first, pair.second) for pair in pairs} == {("right", "left")}


def test_tiny_images_get_an_input_size(data: Path) -> None:
    files = [ImageFile(path.relative_to(data).as_posix(), path.parent.name, None) for path in data.rglob("*.png")]
    seen = draw(data, files, 8, 0)
    notes = describe(seen, seen.labels.tolist(), 224).notes
    assert "the images are tiny (median 40 px) and are enlarged to 224 px; --image-size 40 trains faster" in notes


def write_noise(folder: Path, per_class: int, copies: int) -> list[ImageFile]:
    """Images that tell nothing of their class, each stored several times."""
    rng = np.random.default_rng(0)
    for label in ("left", "right"):
        (folder / label).mkdir(parents=True)
        for number in range(per_class):
            image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            for copy in range(copies):
                image.save(folder / label / f"{number}-{copy}.png")
    paths = sorted(folder.rglob("*.png"))
    return [ImageFile(path.relative_to(folder).as_posix(), path.parent.name, None) for path in paths]


def test_copies_tell_a_probe_nothing(tmp_path: Path) -> None:
    files = write_noise(tmp_path, 40, 2)
    seen = draw(tmp_path, files, 60, 0)
    assert (len(seen.files), len(set(seen.sha256))) == (60, 60)  # others take the place of copies
    assert 0 < seen.copies < 80
    everything = draw(tmp_path, files, 160, 0)
    assert (len(everything.files), everything.copies) == (80, 80)
    features = np.stack([np.asarray(Image.open(path), np.float32).ravel() for path in everything.paths])
    for probe in (linear_probe(features, everything.labels, 0), nearest_neighbours(features, everything.labels)):
        assert probe.accuracy.low < 0.5
        assert probe.accuracy.value < 0.65
    notes = describe(everything, everything.labels.tolist(), 32).notes
    assert "80 of the images drawn were copies of others and were left out" in notes


def test_a_class_of_copies_is_one_image(tmp_path: Path) -> None:
    files = write_noise(tmp_path, 1, 5)
    with pytest.raises(DataError, match="at least 2 different images of every class"):
        draw(tmp_path, files, 60, 0)


def test_one_picture_in_two_classes_is_refused(tmp_path: Path) -> None:
    files = write_noise(tmp_path, 5, 1)
    (tmp_path / "right" / "0-0.png").write_bytes((tmp_path / "left" / "0-0.png").read_bytes())
    with pytest.raises(DataError, match=r"the same picture: (left|right)/0-0.png = (left|right)/0-0.png"):
        draw(tmp_path, files, 60, 0)


def test_one_image_of_a_class_is_too_few(tmp_path: Path) -> None:
    write_digits(tmp_path, 1)
    with pytest.raises(DataError, match="at least 2 different images"):
        tledge.select(tmp_path, image_size=32)


def trunk(name: str, scores: tuple[float, float, float], right: tuple[int, int, int] = (90, 90, 90)) -> TrunkEvidence:
    depths = tuple(
        DepthEvidence(f"block{b}_pool", score, proportion(hits, 100), proportion(hits, 100), (), np.arange(100) < hits)
        for b, score, hits in zip((3, 4, 5), scores, right, strict=True)
    )
    return TrunkEvidence(name, "", "", depths, 0.0, 0)


NEAR, FAR, RANDOM = trunk("a", (0.1, 0.2, 0.3)), trunk("b", (0.3, 0.2, 0.1)), trunk("random", (0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("evidence", "images", "technique", "cut"),
    [
        (NEAR, 50, "feature-extraction", None),
        (NEAR, 500, "freeze", "block4_pool"),
        (NEAR, 5000, "freeze", "block4_pool"),
        (FAR, 50, "feature-extraction", None),
        (trunk("c", (0.3, 0.2, 0.1), (95, 80, 50)), 50, "freeze", "block3_pool"),
        (FAR, 500, "freeze", "block3_pool"),
        (FAR, 5000, "architecture", None),
        (trunk("d", (-0.3, -0.2, -0.1)), 5000, "architecture", None),
    ],
)
def test_the_technique_follows_from_amount_and_nearness(
    evidence: TrunkEvidence, images: int, technique: str, cut: str | None
) -> None:
    _, advice = advise([RANDOM, evidence], "random", images)
    assert (advice.technique, advice.freeze_until) == (technique, cut)
    assert advice.source
    assert str(images) in advice.reason


def test_trunks_are_ranked_by_the_depth_that_the_technique_uses() -> None:
    few, advice = advise([FAR, NEAR, RANDOM], "random", 50)
    assert (few[0], advice.any_depth) == (NEAR, False)
    ahead = trunk("ahead", (0.9, 0.1, 0.0))
    assert advise([ahead, NEAR, RANDOM], "random", 50)[0][0] is NEAR
    assert advise([ahead, NEAR, RANDOM], "random", 500)[0][0] is ahead


def test_random_weights_are_compared_and_not_recommended() -> None:
    ahead = trunk("random", (0.5, 0.6, 0.7))
    for images, technique in ((50, "feature-extraction"), (500, "freeze"), (5000, "architecture")):
        ranked, advice = advise([NEAR, ahead], "random", images)
        assert [one.name for one in ranked] == ["random", "a"]
        assert recommended(ranked, "random") is NEAR
        assert (advice.technique, advice.near) == (technique, False)
        assert "LogME of a:" in advice.reason
        assert "no trunk has a higher LogME than random weights" in advice.reason
    assert "random" not in advise([NEAR, RANDOM], "random", 50)[1].reason
    for images in (50, 5000):
        ranked, advice = advise([ahead], "random", images)
        assert recommended(ranked, "random") is ahead
        assert (advice.technique, advice.freeze_until, advice.near) == ("architecture", None, False)
        assert "random weights alone" in advice.rule


def test_an_earlier_depth_has_to_beat_block_5_of_every_trunk() -> None:
    early = trunk("early", (0.9, 0.1, 0.2), (80, 50, 50))
    strong = trunk("strong", (0.1, 0.1, 0.3), (50, 50, 60))
    assert advise([early, strong], "random", 50)[1].technique == "freeze"
    stronger = trunk("stronger", (0.1, 0.1, 0.25), (50, 50, 80))  # LogME says less of it than of strong
    assert advise([early, strong, stronger], "random", 50)[1].technique == "feature-extraction"


def test_texts_get_a_text_model_and_are_refused_by_train(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "texts", {"pos": 6, "neg": 6})
    found = tledge.select(folder, out=tmp_path / "select.json")
    assert isinstance(found, TextSelection)
    content = json.loads((tmp_path / "select.json").read_text())
    assert content["recommendation"]["model"] == "bert"
    assert {one["name"] for one in content["refused"]} >= {"vgg16-imagenet", "vgg16-mnist", "vgg16-bsds500"}
    table = tmp_path / "texts.csv"
    table.write_text("text,label\n" + "so long and thanks for all the fish,a\n" * 30)
    for data in (folder, table):
        with pytest.raises(DataError, match="holds texts, and tledge trains images; `tledge select"):
            tledge.train(data, technique="feature-extraction", out=tmp_path / "run")
    with pytest.raises(RunError, match=r'modality as "image" in .*select.json, but got .text.'):
        read_selection(tmp_path / "select.json")


def test_the_command(data: Path, tmp_path: Path) -> None:
    done = run_cli("select", data, "--image-size", "32", "--images", "12", "--candidate", "random", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "technique architecture: random weights alone" in done.stdout
    # Can be pasted, spaces and all.
    assert f"Next: tledge train '{data}' --weights random --technique architecture" in done.stdout
    assert (tmp_path / "select.json").is_file()
    text = run_cli("select", write_texts(tmp_path / "texts", {"a": 3, "b": 3}), "--out", "text.json", cwd=tmp_path)
    assert text.returncode == 0, text.stderr
    assert "bert" in text.stdout
    write_texts(data, {"notes": 9})
    mixed = run_cli("select", data, cwd=tmp_path)
    assert mixed.returncode == 2
    assert mixed.stderr.count("\n") == 1
    assert "mixes" in mixed.stderr
    unknown = run_cli("select", data / "notes" / "0.txt", cwd=tmp_path)
    assert unknown.returncode == 2
    assert unknown.stderr.count("\n") == 1
