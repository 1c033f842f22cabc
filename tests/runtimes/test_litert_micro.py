"""LiteRT Micro: the same answers as LiteRT, an arena that is the least, and refusals in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import converted
from tledge.core.errors import ArtefactError, FixedBatchError
from tledge.runtimes import MODEL_OF_A_RUN, open_classifier
from tledge.runtimes.litert_micro import _fits, measure_arena
from tledge.runtimes.options import RuntimeOptions
from tledge.runtimes.registry import open_adapter

keras = pytest.importorskip("keras")
pytest.importorskip("tflite_micro")

SIDE, LABELS = 32, ("a", "b", "c")
MICRO = RuntimeOptions(micro=True)
IMAGES = np.random.default_rng(0).integers(0, 256, (12, SIDE, SIDE, 3), dtype=np.uint8)


def small_net(last: str = "relu") -> Any:
    """A chain of the layers that tledge's own nets have."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(16, 3, padding="same", activation=last),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("micro")

    def of(model: Any, precision: str = "int8", **options: Any) -> Path:
        path = folder / f"{len(list(folder.iterdir()))}.tflite"
        images = IMAGES if precision == "int8" else None
        path.write_bytes(converted("tflite", precision, model, LABELS, images, **options))
        return path

    return of


@pytest.fixture(scope="module")
def signed(write: Callable[..., Path]) -> Path:
    return write(small_net(), io="int8")


@pytest.mark.parametrize("io", ["int8", "uint8"])
def test_it_answers_as_litert_does(write: Callable[..., Path], signed: Path, io: str) -> None:
    path = signed if io == "int8" else write(small_net(), io=io)
    micro, here = (open_classifier(path, MODEL_OF_A_RUN, options=options) for options in (MICRO, RuntimeOptions()))
    assert (micro.runtime, here.runtime) == ("litert-micro", "litert")
    assert (micro.input_dtype, micro.output_dtype, micro.labels) == (io, io, LABELS)
    expected = here.predict(IMAGES)
    assert len(np.unique(expected, axis=0)) > 6
    assert np.abs(micro.predict(IMAGES) - expected).max() <= micro.output_step + 1e-6


def test_int8_pixels_are_bytes_less_128(signed: Path) -> None:
    adapter = open_adapter(signed, options=MICRO)
    assert (adapter.inputs[0].scale, adapter.inputs[0].zero_point) == (1.0, -128)
    encoded = open_classifier(signed, MODEL_OF_A_RUN).form.encode(IMAGES[:1])
    assert np.array_equal(encoded.view(np.uint8), IMAGES[:1] ^ 128)


def test_a_bound_input_serves_every_following_run(signed: Path) -> None:
    """In the arena, other tensors take its place while the model runs."""
    adapter = open_adapter(signed, options=MICRO)
    adapter.bind([(IMAGES[:1] ^ 128).view(np.int8)])
    adapter.invoke()
    first = np.copy(adapter.read()[0])
    adapter.invoke()
    assert np.array_equal(adapter.read()[0], first)
    with pytest.raises(FixedBatchError, match="a batch of 1"):
        adapter.bind([(IMAGES[:2] ^ 128).view(np.int8)])


def test_the_arena_is_the_least_that_is_enough(signed: Path) -> None:
    arena = measure_arena(signed)
    content = signed.read_bytes()
    assert arena.bytes % 16 == 0
    assert _fits(signed, content, arena.bytes)
    assert not _fits(signed, content, arena.bytes - 16)
    # What the first convolution reads and makes is there at once.
    assert arena.activations >= SIDE * SIDE * (3 + 8)
    assert arena.bytes >= arena.activations + arena.persistent
    assert sum(arena.parts.values()) <= arena.persistent
    assert "Persistent buffer data" in arena.parts


def test_a_float_file_needs_four_times_the_tensors(write: Callable[..., Path], signed: Path) -> None:
    float_arena = measure_arena(write(small_net(), "float32"))
    assert float_arena.activations == pytest.approx(4 * measure_arena(signed).activations, rel=0.1)


def test_an_operator_that_it_lacks_is_named(write: Callable[..., Path]) -> None:
    path = write(small_net("gelu"), "float32")
    with pytest.raises(ArtefactError, match=r"LiteRT Micro runs, but it refuses it: .*GELU") as caught:
        open_classifier(path, MODEL_OF_A_RUN, options=MICRO)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_refused_before_it_is_followed(signed: Path, tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"nothing", signed.read_bytes()[:2000])):
        path = tmp_path / f"{number}.tflite"
        path.write_bytes(content)
        with pytest.raises(ArtefactError) as caught:
            measure_arena(path)
        assert "\n" not in str(caught.value)
