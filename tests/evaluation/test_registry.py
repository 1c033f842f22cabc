"""A gate is added with one function and one line in the registry: everything else follows from these."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from tests.conftest import untrained_classifier, write_digits
from tledge.core.errors import SettingsError
from tledge.evaluation.gates import GATES, parse_limits
from tledge.evaluation.models import check_models
from tledge.evaluation.outputs import as_annotations, as_junit
from tledge.evaluation.settings import CheckSettings
from tledge.reporting.check import as_markdown
from tledge.runtimes.declared import Declarations

GUIDE = (Path(__file__).parents[2] / "docs" / "extend" / "gate.md").read_text()


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A further gate, as docs/extend/gate.md adds it: its module, and its line in the registry."""
    module, line = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    path = tmp_path / "hesitation.py"
    path.write_text(module)
    spec = importlib.util.spec_from_file_location("hesitation", path)
    assert spec is not None
    assert spec.loader is not None
    hesitation = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hesitation)
    (kind,) = eval(f"({line})", {"hesitation": hesitation})
    monkeypatch.setitem(GATES, kind.metric.key, kind)


def test_an_unknown_gate_is_refused() -> None:
    with pytest.raises(SettingsError, match="baseline_drop in --gate, but got 'hesitation'"):
        parse_limits("hesitation < 0.1")


@pytest.mark.usefixtures("registered")
def test_the_grammar_knows_it() -> None:
    assert parse_limits("drop < 0.02, hesitation < 99 %") == {"max_drop": 0.02, "hesitation": 0.99}
    assert parse_limits({"hesitation": 0.5}) == {"hesitation": 0.5}
    with pytest.raises(SettingsError, match="turn the comparison"):
        parse_limits("hesitation > 0.1")
    with pytest.raises(SettingsError, match="baseline_drop, hesitation in --gate"):
        parse_limits("hesitaton < 0.1")


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(("limit", "verdict"), [("99 %", "pass"), ("0.1 points", "fail")])
def test_a_check_evaluates_prints_and_writes_it(limit: str, verdict: str, tmp_path: Path) -> None:
    data = write_digits(tmp_path / "digits", 2)
    labels = tmp_path / "labels.txt"
    labels.write_text("digit 0\ndigit 1\ndigit 7\n")
    model = untrained_classifier(3, 32)
    model.save(tmp_path / "reference.keras")
    last = model.get_layer("prediction")
    last.set_weights([weights * 1.01 for weights in last.get_weights()])
    model.save(tmp_path / "other.keras")
    settings = CheckSettings(parse_limits(f"hesitation < {limit}"), on_undecided="pass")
    result = check_models(
        *(tmp_path / "reference.keras", [tmp_path / "other.keras"], data, labels),
        *(Declarations(("0..255",)), settings),
        out=tmp_path / "out",
    )
    (written,) = json.loads((tmp_path / "out" / "check.json").read_text())["artefacts"]
    gate = next(gate for gate in written["gates"] if gate["name"] == "hesitation")
    assert gate["verdict"] == verdict
    assert 0 < gate["value"] < 0.99
    assert gate["limit"] == parse_limits(f"hesitation < {limit}")["hesitation"]
    assert (gate["n"], gate["note"]) == (6, "mean over images")
    assert f"hesitation is {gate['value']:.4g}" in as_junit(result)
    assert "| hesitation |" in as_markdown(result)
    assert any("hesitation" in line for line in as_annotations(result)) == (verdict == "fail")
