"""`tledge run`: what is refused before training, and the order of the stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tledge import pipeline
from tledge.core.errors import SettingsError
from tledge.evaluation.settings import CheckSettings
from tledge.training.settings import TrainSettings

SETTINGS = TrainSettings("feature-extraction")


def test_a_limit_on_no_baseline_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "train", lambda *_: pytest.fail("it trains"))
    with pytest.raises(SettingsError, match="expected a baseline"):
        pipeline.run_pipeline(tmp_path, SETTINGS, tmp_path / "run", checking=CheckSettings({"max_baseline_drop": 0.1}))


def test_a_recipes_limit_on_a_baseline_needs_one(tmp_path: Path) -> None:
    of_recipe = {"max_baseline_drop": 0.01}
    assert "max_baseline_drop" not in CheckSettings().limits_of(of_recipe)
    assert CheckSettings(baseline=tmp_path / "b.json").limits_of(of_recipe)["max_baseline_drop"] == 0.01
    assert CheckSettings(baseline=tmp_path / "b.json").limits_of({})["max_baseline_drop"] == 0.02


@pytest.mark.parametrize(
    ("limits", "recipe", "order"),
    [
        ({}, "", ["train", "export", "check", "bench", "report"]),
        ({"max_latency_ratio": 0.5}, "", ["train", "export", "bench", "check", "report"]),
        ({}, "[check]\nmax_latency_ratio = 0.5\n", ["train", "export", "bench", "check", "report"]),
        ({"max_drop": 0.5}, "[check]\nmax_drop = 0.5\n", ["train", "export", "check", "bench", "report"]),
    ],
)
def test_latencies_are_measured_before_a_check_that_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, float], recipe: str, order: list[str]
) -> None:
    done: list[str] = []
    for stage in order:
        monkeypatch.setattr(pipeline, stage, lambda *_, stage=stage, **__: done.append(stage))
    path = tmp_path / "mine.toml"
    path.write_text(f'format = "onnx"\nprecision = "float32"\n{recipe}')
    pipeline.run_pipeline(
        tmp_path, SETTINGS, tmp_path / "run", recipes=(str(path),), checking=CheckSettings(limits), threads=1
    )
    assert done == order
