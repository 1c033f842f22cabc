"""What `optimize` says beforehand about the time that it will take."""

from __future__ import annotations

import logging
import re
from dataclasses import replace

import pytest

from tests.small_nets import digits_at_32px, silent
from tledge.compression import LowRankSettings, Study, shrink
from tledge.compression.forecast import Work, seconds_per_image
from tledge.compression.methods.low_rank import thin_layers
from tledge.model.vgg16 import build

WORK = Work(fitted=400, taught=800, validated=30, epochs=10, share=0.1, million_weights=15)


def test_more_work_takes_longer() -> None:
    for more in ({"fitted": 500}, {"taught": 900}, {"validated": 40}, {"epochs": 11}, {"share": 0.2}):
        assert replace(WORK, **more).seconds(0.1) > WORK.seconds(0.1)
    # Equations take as long on small images as on large ones.
    assert WORK.seconds(0.1) < WORK.seconds(0.2) < 2 * WORK.seconds(0.1)


def test_it_is_said_before_anything_else(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    data, model = digits_at_32px(tmp_path_factory.mktemp("digits")), build(3, 32, "gap", None, seed=3)
    heard: list[tuple[str, int]] = []
    with caplog.at_level(logging.INFO, "tledge"):
        shrink(
            Study(model, data, 0, pictures=48),
            LowRankSettings(speedup=8, epochs=2),
            thin_layers,
            lambda what, done, of: heard.append((what, len(caplog.messages))),
        )
    (line,) = caplog.messages
    assert re.fullmatch(r"about \d+ min here \(pictures to learn from: 48, epochs: 2\)", line)
    assert {said for _, said in heard} == {1}
    assert seconds_per_image(model) > 0


@pytest.mark.parametrize("settings", [{"image_size_px": 32}, {"last_layer": "block4_pool"}])
def test_what_takes_no_time_is_not_foretold(
    settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    data, model = digits_at_32px(tmp_path_factory.mktemp("digits")), build(3, 32, "gap", None, seed=3)
    with caplog.at_level(logging.INFO, "tledge"):
        shrink(Study(model, data, 0, pictures=48), LowRankSettings(epochs=0, **settings), thin_layers, silent)
    assert not caplog.messages
