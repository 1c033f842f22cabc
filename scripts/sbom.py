"""Write sbom.cdx.json: the pinned packages of constraints.txt as a software bill of materials, CycloneDX 1.6.

Usage: python scripts/sbom.py            (a test says when it is due)

Licences are in the words of the installed packages, as SPDX expressions where they are ones; a package that is not
installed at its pinned version keeps what the file says of it. The file holds no time: equal pins give equal bytes.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import tledge

ROOT = Path(__file__).parents[1]
SBOM = ROOT / "sbom.cdx.json"
_SPDX = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "MPL-2.0", "PSF-2.0")
_LONGEST_NAME = 60  # some packages have the whole text of their licence where its name belongs


def pins() -> dict[str, str]:
    """From each pinned package to its version."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    return {name: version for name, _, version in (line.partition("==") for line in lines)}


def licences(name: str, version: str) -> list[dict[str, Any]] | None:
    """What an installed package says of its licence, [] for nothing; None where that version is not installed."""
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if package.version != version:
        return None
    said: Any = package.metadata
    if said.get("License-Expression"):
        return [{"expression": said["License-Expression"]}]
    field = (said.get("License") or "").strip()
    classifiers = [c.rpartition(" :: ")[2] for c in said.get_all("Classifier") or () if c.startswith("License ::")]
    names = [field] if field and len(field) <= _LONGEST_NAME and "\n" not in field else classifiers
    return [{"license": {"id": one} if one in _SPDX else {"name": one}} for one in names]


def sbom(known: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The content of the file.

    Args:
        known: licences by purl, for packages that are not installed at their pinned version.
    """
    components = []
    for name, version in sorted(pins().items(), key=lambda pin: pin[0].lower()):
        purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
        found = licences(name, version)
        found = known.get(purl, []) if found is None else found
        component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        components.append(component | ({"licenses": found} if found else {}))
    own = {"type": "application", "bom-ref": "tledge", "name": "tledge", "version": tledge.__version__}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own | {"licenses": [{"license": {"id": "Apache-2.0"}}]}},
        "components": components,
    }


def known_licences() -> dict[str, list[dict[str, Any]]]:
    """Licences by purl, as the file has them now."""
    if not SBOM.is_file():
        return {}
    components = json.loads(SBOM.read_text(encoding="utf-8"))["components"]
    return {one["purl"]: one.get("licenses", []) for one in components}


def text() -> str:
    """The text of the file."""
    return json.dumps(sbom(known_licences()), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SBOM.write_text(text(), encoding="utf-8")
