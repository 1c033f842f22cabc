"""Pack what a device needs into one zip: models, test images with the answers expected, labels, and code for them.

For a microcontroller the code is C and C++: the model as an array, and what LiteRT Micro has to be told of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tledge.conversion.artefacts import RunArtefact, open_artefacts
from tledge.conversion.recipe import recipe_folder
from tledge.core.environment import available_cores, cpu, versions
from tledge.core.errors import SettingsError, VerificationError
from tledge.core.files import sha256_file, write_zip
from tledge.core.image_size import height_width
from tledge.core.progress import Progress, silent
from tledge.core.types import Images, Json, Probabilities, ResizeMode
from tledge.data.split import stratified_sample
from tledge.deployment.export import export_for_target
from tledge.deployment.microcontroller import run_in_litert_micro, sources
from tledge.deployment.targets import DeviceTarget, KitForm, load_target
from tledge.deployment.web_runtimes import computes, web_runtime_files
from tledge.runs.images import run_images
from tledge.runs.manifest import Manifest, read_manifest
from tledge.runs.rundir import RunDir, open_run, signature_of
from tledge.runtimes import ImageClassifier

SCHEMA_VERSION = 1
DEFAULT_IMAGES = 6
_CODE: Mapping[KitForm, str] = {"device": "device", "micro": "micro", "site": "browser"}  # folders of export/
# How far, in probability, another processor may be off. Floats are summed in another order, float16 may be computed in
# half precision, and a rounding of one integer can be carried through all layers.
TOLERANCES: Mapping[str, float] = {"float32": 0.001, "float16": 0.02, "dynamic": 0.1, "int8": 0.1, "int8x16": 0.02}


@dataclass(frozen=True)
class Kit:
    """A written kit; `manifest` is the content of its kit.json."""

    path: Path
    form: KitForm
    size_bytes: int
    sha256: str
    manifest: Json


def build_kit(
    run_path: Path,
    out: Path,
    *,
    target: str | DeviceTarget | None = None,
    images: int = DEFAULT_IMAGES,
    data: Path | None = None,
    progress: Progress = silent,
) -> Kit:
    """Pack a run's artefacts for a device; equal runs, machines and versions give equal bytes.

    Args:
        run_path: the run.
        out: the zip to write; an old one is replaced.
        target: whose artefacts, exported if they are missing: a target, its name or TOML file; None for every exported
            artefact of the run. A target for browsers makes the kit a web page.
        images: how many test images go along, evenly over the classes, at least 1; in a web page also 0.
        data: where the run's images are now; None for where they were at training.
        progress: called with (what, parts done, parts in all).

    Raises:
        SettingsError: too few images, `out` is no place for a file, or the model cannot keep the target's limits.
        VerificationError: an exported file breaks a limit of the target.
        MissingDependencyError, RemoteError: a web page needs runtimes, and npm is missing or cannot fetch them.
        RunError, ArtefactError, DataError: the run, its artefacts or its images are not what they should be.
    """
    target = None if target is None else load_target(target)
    form: KitForm = "device" if target is None else target.kit
    _require_place(out)
    members, content = kit_content(run_path, form, target=target, images=images, data=data, progress=progress)
    write_zip(out, members)
    return Kit(out, form, out.stat().st_size, sha256_file(out), content)


def kit_content(
    run_path: Path,
    form: KitForm,
    *,
    target: DeviceTarget | None = None,
    images: int = DEFAULT_IMAGES,
    data: Path | None = None,
    only: Callable[[RunArtefact], bool] = lambda _: True,
    progress: Progress = silent,
) -> tuple[dict[str, bytes | Path], Json]:
    """Everything that belongs into a kit, by its name there, and the content of its kit.json; see `build_kit`.

    `only` chooses among the artefacts.
    """
    fewest = 0 if form == "site" else 1
    if images < fewest:
        raise SettingsError(f"expected at least {fewest} image, but got {images}; choose a larger number")
    run = open_run(run_path, data)
    manifest = read_manifest(run)
    if target is None:
        chosen: Sequence[Path] = ()
    else:
        made = export_for_target(run_path, target, data=data, progress=progress)
        if made.breaches:
            raise VerificationError(f"{made.breaches[0]}; no kit was written")
        chosen = [artefact.path for artefact in made.exported.artefacts]
    artefacts = tuple(pair for pair in open_artefacts(run, manifest, chosen) if only(pair[0]))
    members, entries, pixels = _images(run, manifest, images)
    described = []
    for done, (artefact, classifier) in enumerate(artefacts):
        progress("computing expected answers", done, len(artefacts))
        for path in (artefact.path, signature_of(artefact.path)):
            if path.is_file():
                members[f"models/{path.name}"] = path
        if form == "micro":
            entry, code = _micro_artefact(artefact, pixels, manifest.classes)
            members |= code
        else:
            entry = _artefact(artefact, classifier, pixels)
            if form == "site":
                entry["webgpu"] = computes("webgpu", artefact)
        described.append(entry)
    progress("computing expected answers", len(artefacts), len(artefacts))
    members |= _code(form) | _resizing(form, manifest.resize)
    members |= {"labels.txt": "".join(f"{name}\n" for name in manifest.classes).encode()}
    if form == "site":
        on_gpu = {entry["runtime"] for entry in described if entry["webgpu"]}
        members |= web_runtime_files({entry["runtime"] for entry in described}, progress, webgpu=on_gpu)
    content: Json = {
        "schema_version": SCHEMA_VERSION,
        "tledge": versions()["tledge"],
        "model_sha256": manifest.model_sha256,
        "image_size_px": manifest.image_size_px,
        "resize_method": manifest.resize_method,
        "resize": manifest.resize,
        "labels": list(manifest.classes),
        "target": None if target is None else _target(target),
        "threads": list(target.threads) if target is not None else [available_cores()],
        "images": entries,
        "artefacts": described,
        "expected_from": {"cpu": cpu()[0], "versions": versions()},
        "files": {name: _sha256(members[name]) for name in sorted(members)},
    }
    described_as = (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    members["kit.json"] = described_as
    sums = {"kit.json": _sha256(described_as), **content["files"]}
    members["SHA256SUMS"] = "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode()
    return members, content


def _require_place(out: Path) -> None:
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if out.is_dir() or out.suffix != ".zip" or not parent.is_dir() or not os.access(parent, os.W_OK):
        raise SettingsError(f"expected a place for a .zip file, but got {out}; choose another --out")


def _images(run: RunDir, manifest: Manifest, count: int) -> tuple[dict[str, bytes | Path], list[Json], Images]:
    if count == 0:
        return {}, [], np.empty((0, *height_width(manifest.image_size_px), 3), np.uint8)
    tested = run_images(run, manifest, [manifest.image_size_px])
    chosen = stratified_sample([manifest.classes[i] for i in tested.labels], count, manifest.seed)
    pixels = tested.stores[manifest.image_size_px].take(chosen)
    members: dict[str, bytes | Path] = {}
    entries: list[Json] = []
    for number, (index, image) in enumerate(zip(chosen, pixels, strict=True)):
        names = {"rgb": f"images/{number:02d}.rgb", "png": f"images/{number:02d}.png"}
        members |= {names["rgb"]: image.tobytes(), names["png"]: _png(image)}
        label = manifest.classes[int(tested.labels[index])]
        entries.append({**names, "label": label, "source": tested.paths[int(index)]})
    return members, entries, pixels


def _png(image: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _artefact(artefact: RunArtefact, classifier: ImageClassifier, pixels: Images) -> Json:
    # One by one, as the device does it: a batch sums floats in another order.
    answers = [classifier.predict(pixels[i : i + 1])[0] for i in range(len(pixels))]
    output = classifier.form.output
    entry = _entry(artefact, classifier.runtime, classifier.input_dtype, classifier.output_dtype, answers)
    return entry | {"output_scale": output.scale, "output_zero_point": output.zero_point}


def _micro_artefact(artefact: RunArtefact, pixels: Images, labels: Sequence[str]) -> tuple[Json, dict[str, bytes]]:
    model = run_in_litert_micro(artefact.path, pixels)
    dtype = "int8" if model.is_signed else "uint8"
    entry = _entry(artefact, "litert-micro", dtype, dtype, list(model.probabilities))
    return entry | model.as_json(), sources(model, labels, entry["tolerance"])


def _entry(
    artefact: RunArtefact, runtime: str, input_dtype: str, output_dtype: str, answers: Sequence[Probabilities]
) -> Json:
    precision = str(artefact.precision)
    return {
        "name": artefact.name,
        "file": f"models/{artefact.path.name}",
        "runtime": runtime,
        "precision": precision,
        "input_dtype": input_dtype,
        "output_dtype": output_dtype,
        "size_bytes": artefact.size_bytes,
        "sha256": artefact.sha256,
        "tolerance": TOLERANCES[precision],
        "expected": [[round(float(p), 6) for p in row] for row in answers],
        "top1": [int(row.argmax()) for row in answers],
    }


def _target(target: DeviceTarget) -> Json:
    limits = target.limits
    memory = {"memory_mb": limits.memory_mb} if limits.arena_kb is None else {"arena_kb": limits.arena_kb}
    return {"name": target.name, "title": target.title, "size_mb": limits.size_mb, **memory}


def _code(form: KitForm) -> dict[str, bytes | Path]:
    folder = recipe_folder() / _CODE[form]
    files: Sequence[Path] = [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return {path.relative_to(folder).as_posix(): path for path in files}


def _resizing(form: KitForm, mode: ResizeMode) -> dict[str, bytes | Path]:
    """What tests resizing code, and what such code is told of the run; the code itself is that of the kit's form."""
    device = recipe_folder() / _CODE["device"] / "cpp"
    members: dict[str, bytes | Path] = {"resize_vectors.txt": recipe_folder() / "resize_vectors.txt"}
    if form == "micro":
        members["resize.h"] = device / "resize.h"
    if form == "device":
        text = (device / "resize_mode.h").read_text(encoding="utf-8")
        members["cpp/resize_mode.h"] = text.replace("kStretch", f"k{mode.capitalize()}").encode()
    return members


def _sha256(content: bytes | Path) -> str:
    return sha256_file(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
