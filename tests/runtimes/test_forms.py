"""What people say about a model's pixels is read exactly, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tledge.cli import group
from tledge.core.errors import SettingsError
from tledge.runtimes.adapter import TensorSpec
from tledge.runtimes.declared import (
    SCALINGS,
    Declarations,
    InputForm,
    Scaling,
    explicit_scaling,
    parse_forms,
    parse_input,
)
from tledge.runtimes.form import ModelForm


def form_of(layout: str, scaling: Scaling, spec: TensorSpec) -> ModelForm:
    scores = TensorSpec((None, 3), np.dtype(np.float32))
    channels = scaling.channels or "rgb"
    return ModelForm("m", layout, channels, scaling, 4, "test", spec, scores, "distribution")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0..1", InputForm(scaling=SCALINGS["0..1"])),
        ("nchw,torch", InputForm("nchw", None, SCALINGS["torch"])),
        ("bgr, 224px", InputForm(channels="bgr", image_size_px=224)),
        ("96x128px", InputForm(image_size_px=(96, 128))),
        ("96x96px", InputForm(image_size_px=96)),
        ("mean:0,std:1", InputForm(scaling=SCALINGS["0..255"])),
        ("mean:127.5,std:127.5/127.5/127.5,rgb", InputForm(channels="rgb", scaling=SCALINGS["-1..1"])),
        ("caffe,bgr", InputForm(channels="bgr", scaling=SCALINGS["caffe"])),
    ],
)
def test_forms(text: str, expected: InputForm) -> None:
    assert parse_input(text) == expected


def test_explicit_scaling_keeps_the_models_order_of_channels() -> None:
    scaling = parse_input("bgr,mean:104/117/124,std:2").scaling
    assert scaling is not None
    assert (scaling.mean, scaling.std) == ((104, 117, 124), (2, 2, 2))
    assert scaling.name == "mean:104/117/124,std:2/2/2"
    assert (scaling.low, scaling.high) == (-62, 75.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0..2", r"a scaling \(0..255, 0..1, -1..1, caffe, torch, or mean:R/G/B,std:R/G/B .* got '0..2'"),
        ("", "got ''"),
        ("0..1,,rgb", "got ''"),
        ("rgb,bgr", "one channels in 'rgb,bgr', but got two"),
        ("0..1,torch", "one scaling in"),
        ("0..1,mean:1,std:1", "named scaling or mean: and std:, but got both"),
        ("mean:1", "mean: and std: together"),
        ("mean:1/2,std:1", "1 or 3 means and deviations, but got 2 and 1"),
        ("mean:a,std:1", "expected numbers as in mean:124/117/104, but got 'mean:a'"),
        ("mean:0.485/0.456/0.406,std:0.229/0.224/0.225", "multiply those of pixels in 0..1 by 255"),
        ("mean:nan,std:1", "means up to 255"),
        ("mean:0,std:0", "deviations from 1 to 255"),
        ("rgb,caffe", "expected bgr with the scaling caffe, which is defined so, but got rgb"),
        ("torch,bgr", "expected rgb with the scaling torch"),
        ("0px", "at least 1px, but got 0px"),
        ("96x0px", "at least 1px, but got 96x0px"),
    ],
)
def test_impossible_forms(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        parse_input(text)
    assert "\n" not in str(caught.value)


def test_declarations_by_file() -> None:
    forms = parse_forms(["0..1", "a=b.onnx=torch", "sub/m.tflite=bgr"], ["m.tflite=logits", "probabilities"])
    assert forms.of(Path("a=b.onnx")).own == InputForm(scaling=SCALINGS["torch"])
    assert forms.of(Path("sub/m.tflite")).own == InputForm(channels="bgr")
    assert forms.of(Path("sub/m.tflite")).output == "logits"
    other = forms.of(Path("other.keras"))
    assert (other.own, other.default, other.output) == (
        InputForm(),
        InputForm(scaling=SCALINGS["0..1"]),
        "probabilities",
    )
    forms.require_known([Path("x/a=b.onnx"), Path("sub/m.tflite")])
    with pytest.raises(SettingsError, match=r"one of the models \(m.tflite\) before '=', but got 'a=b.onnx'"):
        forms.require_known([Path("sub/m.tflite")])


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (["0..1", "torch"], [], "one --input for all models, but got '0..1' and 'torch'"),
        (["m.onnx=0..1", "m.onnx=bgr"], [], "one --input for m.onnx"),
        ([], ["softmax"], "probabilities or logits for --output, but got 'softmax'"),
        ([], ["m.onnx=logits", "m.onnx=logits"], "one --output for m.onnx"),
    ],
)
def test_impossible_declarations(inputs: list[str], outputs: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_forms(inputs, outputs)


def test_open_fields_are_filled_in_and_a_convention_keeps_its_order() -> None:
    caffe, all_rgb = parse_input("caffe"), parse_input("rgb,nhwc,0..1")
    assert caffe.over(all_rgb) == InputForm("nhwc", "bgr", SCALINGS["caffe"])
    assert InputForm().over(all_rgb) == all_rgb
    with pytest.raises(SettingsError, match="expected bgr with the scaling caffe"):
        parse_input("rgb").over(caffe)


def test_named_scalings_are_those_of_their_frameworks() -> None:
    keras = pytest.importorskip("keras")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    preprocess = keras.applications.imagenet_utils.preprocess_input
    for name, mode in (("caffe", "caffe"), ("torch", "torch"), ("-1..1", "tf")):
        scaling = SCALINGS[name]
        form = form_of("nhwc", scaling, TensorSpec((None, 4, 4, 3), np.dtype(np.float32)))
        values = form.encode(pixels)
        np.testing.assert_allclose(values, preprocess(pixels.astype(np.float32), mode=mode), atol=1e-5)


def test_quantized_encoding_by_hand() -> None:
    pixels = np.array([0, 1, 128, 255], np.uint8).reshape(1, 2, 2, 1).repeat(3, 3)
    spec = TensorSpec((1, 3, 2, 2), np.dtype(np.int8), scale=2 / 256, zero_point=0)
    values = form_of("nchw", explicit_scaling([127.5], [127.5]), spec).encode(pixels)
    assert values.shape == (1, 3, 2, 2)
    # 1.0 is 128 steps and saturates at 127; 1/127.5 - 1 is -126.996 steps.
    assert values[0, 0].ravel().tolist() == [-128, -127, 1, 127]


def test_options() -> None:
    def invoke(*arguments: str) -> object:
        result = CliRunner().invoke(group, ["check", *arguments])
        return result.exception or result.output.strip()

    assert Declarations(outputs=("logits",)).forms.default_output == "logits"
    for arguments, message in (
        (("--input", "0..1"), "expected --reference MODEL with --input"),
        (("--labels", "l.txt"), "expected --reference MODEL with --labels"),
        (("--reference", "m.keras"), "expected --labels FILE with --reference"),
        (("--reference", "m.keras", "--labels", "l.txt", "--input", "x"), "got 'x'"),
    ):
        error = invoke(*arguments)
        assert isinstance(error, SettingsError)
        assert message in str(error)
    assert "mean:R/G/B,std:R/G/B" in str(invoke("--help"))
