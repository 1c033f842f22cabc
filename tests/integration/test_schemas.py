"""The published JSON Schemas are those of the records, and what commands write is valid by them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import tledge
from tledge.benchmark import bench as bench_stage
from tledge.conversion.recipe import recipe_folder
from tledge.core.errors import TledgeError
from tledge.core.records import Document, read_record
from tledge.model.catalogue import catalogue_folder

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "schemas"


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate_schemas", ROOT / "scripts" / "schemas.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = generator()
DOCUMENTS = {name: kind for name, kind in GENERATOR.SCHEMAS.items() if issubclass(kind, Document)}


@pytest.mark.parametrize("name", GENERATOR.SCHEMAS)
def test_published_schemas_are_current(name: str) -> None:
    text = GENERATOR.path_of(name).read_text(encoding="utf-8")
    assert text == GENERATOR.text_of(name), "run `python scripts/schemas.py`"
    jsonschema.Draft202012Validator.check_schema(json.loads(text))


def test_no_schema_is_left_over() -> None:
    assert {path.name.partition(".")[0] for path in FOLDER.glob("*.json")} == set(GENERATOR.SCHEMAS)


def valid(name: str, content: object) -> None:
    jsonschema.Draft202012Validator(GENERATOR.schema_of(name)).validate(content)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("recipe", recipe_folder()),
        ("target", recipe_folder() / "targets"),
        ("catalogue", catalogue_folder()),
    ],
)
def test_built_in_toml_files_are_valid(name: str, folder: Path) -> None:
    for path in folder.glob("*.toml"):
        valid(name, tomllib.loads(path.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def files(finished_run: Path) -> dict[str, Path]:
    """A file of each kind that a checked and measured run has, by the name of its schema."""
    run = finished_run.parent / "for-schemas"
    shutil.copytree(finished_run, run)
    for path in (run / "export").iterdir():
        if path.stem != "tflite-int8":
            path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_stage, "installed", lambda package: False)
        tledge.bench(run, rounds=2, samples=1, threads=1)
    tledge.check(run, max_drop=0.9, on_undecided="pass")
    tledge.save_baseline(run, run / "baseline.json")
    named = {name: run / f"{name}.json" for name in ("run", "check", "bench", "calibration", "baseline")}
    return named | {"sidecar": run / "export" / "tflite-int8.json"}


@pytest.mark.parametrize("name", ["run", "sidecar", "check", "bench", "calibration", "baseline"])
def test_what_a_run_holds_is_valid_and_a_missing_field_is_named(
    name: str, files: dict[str, Path], tmp_path: Path
) -> None:
    content = json.loads(files[name].read_text())
    valid(name, content)
    kind = DOCUMENTS[name]
    path = tmp_path / files[name].name
    for field in GENERATOR.schema_of(name)["required"][1:]:
        damages = (
            ({key: value for key, value in content.items() if key != field}, "but it is missing"),
            (content | {field: [[None], 1]}, "but got"),
        )
        for damaged, says in damages:
            path.write_text(json.dumps(damaged))
            with pytest.raises(TledgeError) as caught:
                read_record(path, kind)
            assert str(caught.value).startswith(f"expected {field}")
            assert f" in {path}, {says}" in str(caught.value)
            assert str(caught.value).endswith(f"; {kind.REMEDY}")
            assert "\n" not in str(caught.value)
    path.write_text(json.dumps(content | {"schema_version": kind.VERSION + 1}))
    with pytest.raises(TledgeError, match=f"expected schema version {kind.VERSION} in .*; use a newer tledge"):
        read_record(path, kind)
