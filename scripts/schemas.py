"""Write the JSON Schema of every file that tledge writes or reads, from the records that read them.

python scripts/schemas.py
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tledge.benchmark.bench_files import FilesBenchFile
from tledge.compression.search.record import SearchFile
from tledge.conversion.kept_calibration import CalibrationFile
from tledge.conversion.recipe import RecipeFile
from tledge.conversion.sidecar import Sidecar
from tledge.core.records import VERSION_FIELD, Document, Table
from tledge.deployment.targets import TargetFile
from tledge.diagnosis.diagnosis_json import DiagnosisFile
from tledge.evaluation.baseline import BaselineFile
from tledge.model.catalogue import CatalogueEntry
from tledge.model.ranges import RangesFile
from tledge.model.user_trunks import UserTrunk
from tledge.reporting.model_card import CardFile
from tledge.runs.bench_json import BenchFile
from tledge.runs.check_json import CheckFile
from tledge.runs.manifest import Manifest
from tledge.selection.select_json import ImageSelectionFile, TextSelectionFile

SCHEMAS: Mapping[str, type[Document] | type[Table]] = {
    "run": Manifest,
    "sidecar": Sidecar,
    "check": CheckFile,
    "baseline": BaselineFile,
    "bench": BenchFile,
    "bench-files": FilesBenchFile,
    "calibration": CalibrationFile,
    "quantization": RangesFile,
    "select-images": ImageSelectionFile,
    "select-texts": TextSelectionFile,
    "search": SearchFile,
    "diagnosis": DiagnosisFile,
    "trunk": UserTrunk,
    "recipe": RecipeFile,
    "target": TargetFile,
    "catalogue": CatalogueEntry,
    "model-card": CardFile,
}
"""By the name of the schema: JSON files, and the TOML files that people write."""


def schema_of(name: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one kind of file."""
    kind = SCHEMAS[name]
    (reference,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    top = definitions.pop(reference["$ref"].rpartition("/")[2])
    if issubclass(kind, Document):
        top["properties"] = {VERSION_FIELD: {"const": kind.VERSION}, **top["properties"]}
        top["required"] = [VERSION_FIELD, *top["required"]]
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **top, "$defs": definitions}
    for one in (top, *definitions.values()):
        if "description" in one:
            one["description"] = inspect.cleandoc(one["description"])
    plain: dict[str, Any] = json.loads(json.dumps(schema))  # tuples become lists
    return plain


def text_of(name: str) -> str:
    """The schema as its file has it."""
    return json.dumps(schema_of(name), indent=2, ensure_ascii=False) + "\n"


def path_of(name: str) -> Path:
    """Where the schema is."""
    return Path(__file__).parents[1] / "docs" / "schemas" / f"{name}.schema.json"


if __name__ == "__main__":
    for schema in SCHEMAS:
        path_of(schema).write_text(text_of(schema), encoding="utf-8")
