"""Providers: the same answers, what each took is measured, and one that is missing or does not fit says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tledge
from tests.benchmark.test_bench_quality import FakeWorker
from tests.conftest import run_cli
from tledge.benchmark import measure as bench_measure
from tledge.core.dependencies import installed
from tledge.core.errors import ArtefactError, MissingDependencyError, SettingsError
from tledge.core.files import sha256_file
from tledge.core.types import Images
from tledge.evaluation.candidates import latency_of
from tledge.formats.operators import count_onnx_ops, count_tflite_ops
from tledge.formats.tflite import parse
from tledge.formats.tflite_metadata import pack
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier, open_classifier
from tledge.runtimes.options import RuntimeOptions
from tledge.runtimes.providers import (
    as_text,
    known_providers,
    only_fitting,
    provider_of,
    require_provider,
    require_taken,
)

# OpenVINO computes floats in bfloat16 where the processor can: 8 bits of mantissa, through 14 layers.
FLOAT_TOLERANCE = 0.02
# One step of an output of 8 bits is 1/256; kernels may round it, and sums before it, to either side.
INT8_TOLERANCE = 0.02

# Not by importing it, which would report itself to its vendor.
needs_openvino = pytest.mark.skipif(not installed("openvino"), reason="OpenVINO is not installed")


@pytest.fixture(scope="module")
def images() -> Images:
    return np.random.default_rng(4).integers(0, 256, (6, 32, 32, 3), np.uint8)


def opened(run: Path, name: str, provider: str) -> ImageClassifier:
    options = RuntimeOptions(provider=provider)
    return open_classifier(run / "export" / name, MODEL_OF_A_RUN, 1, options)


@needs_openvino
@pytest.mark.parametrize(
    ("name", "tolerance", "in_integers"),
    [
        ("tflite-int8.tflite", INT8_TOLERANCE, True),
        ("onnx-int8.onnx", INT8_TOLERANCE, True),
        ("tflite-float16.tflite", FLOAT_TOLERANCE, False),
        ("onnx-float32.onnx", FLOAT_TOLERANCE, False),
    ],
)
def test_openvino_answers_as_the_files_own_runtime(
    vgg16_run: Path, images: Images, name: str, tolerance: float, in_integers: bool
) -> None:
    other, own = opened(vgg16_run, name, "openvino"), opened(vgg16_run, name, "")
    assert other.runtime == "openvino"
    assert other.labels == own.labels
    assert other.lineage() == own.lineage()
    assert str(other.form) == str(own.form)
    answers = own.predict(images)
    np.testing.assert_allclose(other.predict(images), answers, atol=tolerance)
    assert np.ptp(answers, axis=0).max() > 2 * tolerance, "answers differ more between images than they may here"
    computed = require_taken(name, "openvino", other.computed())
    assert computed.taken == computed.operators > 20
    assert computed.multiply_adds_integer == (1.0 if in_integers else 0.0)
    assert bool(computed.integer) is in_integers


@needs_openvino
def test_openvino_takes_another_batch(finished_run: Path, images: Images) -> None:
    classifier = opened(finished_run, "tflite-int8.tflite", "openvino")
    alone = classifier.predict(images)
    classifier.prepare(images)
    classifier.invoke()
    np.testing.assert_array_equal(classifier.form.decode(classifier._adapter.read()[0], len(images)), alone)


@needs_openvino
def test_openvino_reads_what_a_quantizer_left_incomplete(finished_run: Path, images: Images, tmp_path: Path) -> None:
    content = (finished_run / "export" / "tflite-int8.tflite").read_bytes()
    model = parse(content)
    for code in model.operatorCodes:
        code.deprecatedBuiltinCode = 0
    other = tmp_path / "other.tflite"
    other.write_bytes(pack(model, len(content)))
    found = open_classifier(other, MODEL_OF_A_RUN, 1, RuntimeOptions(provider="openvino"))
    expected = opened(finished_run, "tflite-int8.tflite", "openvino").predict(images)
    np.testing.assert_array_equal(found.predict(images), expected)


@needs_openvino
def test_openvino_is_not_reported_to_its_vendor() -> None:
    program = (
        "import sys; from tledge.core.dependencies import require; require('openvino'); "
        "print(sys.modules['openvino.tools.ovc.telemetry_utils'].tm.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"


def test_litert_with_and_without_xnnpack(vgg16_run: Path, images: Images) -> None:
    name = "tflite-int8.tflite"
    file = vgg16_run / "export" / name
    operators = sum(count_tflite_ops(file).by_dtype.values())
    with_it, without = (opened(vgg16_run, name, provider) for provider in ("xnnpack", "builtin"))
    np.testing.assert_allclose(with_it.predict(images), without.predict(images), atol=INT8_TOLERANCE)
    taken, all_of_it = (require_taken(name, "", one.computed()) for one in (with_it, without))
    assert (all_of_it.taken, all_of_it.operators, all_of_it.reason) == (operators, operators, "")
    assert taken.operators == operators > taken.taken > operators // 2
    assert "LiteRT's own kernels compute QUANTIZE" in taken.reason
    assert taken.integer == taken.taken
    assert (taken.multiply_adds_integer, all_of_it.multiply_adds_integer) == (1.0, 1.0)
    dynamic = opened(vgg16_run, "tflite-dynamic.tflite", "xnnpack").computed()
    assert dynamic is not None
    assert (dynamic.integer, dynamic.multiply_adds_integer) == (0, 0.0)


def test_onnxruntime_tells_by_its_profile(finished_run: Path) -> None:
    counted = count_onnx_ops(finished_run / "export" / "onnx-int8.onnx")
    computed = opened(finished_run, "onnx-int8.onnx", "cpu").computed()
    assert computed is not None
    assert computed.taken == computed.operators == sum(counted.by_dtype.values())
    assert computed.integer == sum(n for key, n in counted.by_dtype.items() if key.endswith("int8"))
    floats = opened(finished_run, "onnx-float32.onnx", "cpu").computed()
    assert floats is not None
    assert floats.integer == 0


def test_a_provider_that_takes_nothing_is_refused(finished_run: Path) -> None:
    """onnxruntime's package for Linux has a provider for another company's servers, which takes no operator."""
    if not any(one.name == "azure" and one.there for one in known_providers()):
        pytest.skip("this onnxruntime has no provider that takes nothing")
    refused = run_cli("bench", finished_run / "export" / "onnx-int8.onnx", "--provider", "azure")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "it took none; the CPU computes" in refused.stderr


def test_an_accelerator_without_hardware_is_refused_with_the_reason(finished_run: Path) -> None:
    # LiteRT's package has plug-ins for NPUs of phones, which no computer that runs these tests has.
    with pytest.raises(ArtefactError, match="LiteRT compiles for npu, but it refuses it: Some ops are not") as refused:
        opened(finished_run, "tflite-float32.tflite", "npu")
    assert "\n" not in str(refused.value)


def test_unknown_missing_and_unfit_providers(finished_run: Path) -> None:
    with pytest.raises(SettingsError, match=r"xnnpack, builtin.* but got 'quantum'; choose one"):
        require_provider("quantum")
    (absent, *_) = (
        one for one in known_providers() if not any(o.there for o in known_providers() if o.name == one.name)
    )
    with pytest.raises(MissingDependencyError, match=f"{absent.get}, or take one that is there: xnnpack"):
        require_provider(absent.name)
    files = [finished_run / "export" / name for name in ("onnx-int8.onnx", "tflite-int8.tflite")]
    fitting, notes = only_fitting(files, "builtin", asked=False)
    assert (fitting, len(notes)) == ((files[1],), 1)
    assert notes[0].startswith("onnx-int8.onnx: left out")
    with pytest.raises(ArtefactError, match=r"expected a \.tflite file for --provider builtin"):
        only_fitting(files, "builtin", asked=True)
    with pytest.raises(ArtefactError, match=r"expected a \.onnx or \.ort file for --provider cpu"):
        only_fitting(files[1:], "cpu", asked=False)
    assert only_fitting(files, None, asked=True) == (tuple(files), ())
    assert provider_of(Path("model.keras"), "cpu") is None


@needs_openvino
def test_bench_and_check_say_what_a_provider_took(run_copy: Path, tmp_path: Path) -> None:
    int8 = run_copy / "export" / "tflite-int8.tflite"
    out = tmp_path / "bench.json"
    done = run_cli("bench", int8, "--provider", "openvino", "--rounds", 1, "--threads", 1, "--json", out)
    assert done.returncode == 0
    assert "by openvino" in done.stdout
    assert "(100% of multiply-adds)" in done.stdout
    assert "openvino computes" in done.stdout
    (bench,) = json.loads(out.read_text())["benches"]
    assert bench["settings"]["provider"] == bench["results"][0]["computed"]["provider"] == "openvino"
    assert bench["results"][0]["computed"]["multiply_adds_integer"] == 1.0
    result = tledge.check(run_copy, artefacts=[int8], provider="openvino", max_drop=0.9)
    (item,) = result.artefacts
    assert item.runtime == "openvino"
    assert any("tflite-int8: openvino computes" in note and "in integers" in note for note in result.notes)
    refused = run_cli("check", run_copy, "--provider", "builtin", "--artefact", run_copy / "export" / "onnx-int8.onnx")
    assert refused.returncode == 2
    assert "expected a .tflite file for --provider builtin" in refused.stderr


def test_a_run_is_measured_without_what_does_not_fit(
    run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_measure, "Worker", FakeWorker)
    result = tledge.bench(run_copy, provider="builtin", rounds=2, samples=2, threads=1)
    taken = {item.name: item.computed for item in result.measurements}
    assert set(taken) == {"keras", "tflite-dynamic", "tflite-float16", "tflite-float32", "tflite-int8"}
    assert taken["keras"] is None
    assert taken["tflite-int8"] is not None
    assert taken["tflite-int8"].provider == "builtin"
    assert any(note.startswith("onnx-int8.onnx: left out") for note in result.notes)
    digest = sha256_file(run_copy / "export" / "tflite-int8.tflite")
    assert latency_of(run_copy / "bench.json", digest, "builtin")[1] == 4
    assert latency_of(run_copy / "bench.json", digest) == (None, 0), "another provider's latency is no evidence"


def test_the_note_names_who_computes_the_rest(finished_run: Path) -> None:
    computed = opened(finished_run, "tflite-int8.tflite", "xnnpack").computed()
    assert computed is not None
    assert as_text(computed).startswith(f"xnnpack computes {computed.taken} of {computed.operators} operators")
    assert as_text(computed).endswith(computed.reason)
