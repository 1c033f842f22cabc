"""Why a file answers otherwise elsewhere: what is known of its kernels there and here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tledge.conversion.artefacts import RunArtefact
from tledge.core.dependencies import require
from tledge.core.environment import machine, versions
from tledge.deployment.kit import TOLERANCES
from tledge.deployment.kit_bench import PACKAGES
from tledge.evaluation.check import OpenedCheck
from tledge.evaluation.hosts import HostAnswers
from tledge.runs.check_json import AnsweringEnvironment

_X86 = frozenset(("x86_64", "amd64", "AMD64"))
_VNNI = frozenset(("avx512_vnni", "avx_vnni"))
_LARGEST_7_BIT = 64


def explain_all(opened: OpenedCheck, answers: HostAnswers, largest: Sequence[float]) -> tuple[str, ...]:
    """`explain` for each file of a check."""
    return tuple(
        explain(artefact, candidate.classifier.runtime, runtime, answers.environment, most)
        for artefact, candidate, runtime, most in zip(
            opened.artefacts, opened.candidates, answers.runtimes, largest, strict=True
        )
    )


def explain(artefact: RunArtefact, runtime_here: str, runtime: str, there: AnsweringEnvironment, largest: float) -> str:
    """What explains that answers there differ from those here.

    Args:
        artefact: the file.
        runtime_here: what computes it here.
        runtime: what computed it there.
        there: the other machine.
        largest: difference of one probability on one image.

    Returns:
        One line; empty where rounding explains it: sums of floats in another order, float16 computed in half precision
        at times, one integer rounded the other way and carried through all layers.
    """
    if largest <= TOLERANCES.get(str(artefact.precision), max(TOLERANCES.values())):
        return ""
    here = machine()
    for name, environment in (("there", there.machine), ("here", here)):
        weak = environment.architecture in _X86 and not _VNNI & set(environment.cpu_flags)
        if weak and runtime == "onnxruntime" and _has_8_bit_weights(artefact.path):
            return (
                f"the processor {name} has no VNNI: onnxruntime adds pairs of 8-bit products in 16 bits, which "
                "overflow with weights of all 8 bits; export onnx-int8, whose weights have 7"
            )
    if runtime != runtime_here:
        return f"computed by {runtime} there and by {runtime_here} here: other kernels"
    package = PACKAGES.get(runtime, runtime)
    ours, theirs = versions().get(package), there.versions.get(package)
    if ours != theirs:
        return f"{package} {theirs} there, {ours} here: install the same version there to tell kernels from processors"
    if artefact.precision == "float16" and "asimdhp" in there.machine.cpu_flags:
        return "the processor there computes float16 in half precision (asimdhp): take a file in another precision"
    if there.machine.architecture != here.architecture:
        return f"kernels for {there.machine.architecture} there, for {here.architecture} here"
    if there.machine.cpu != here.cpu:
        return f"kernels for another processor: {there.machine.cpu or 'unnamed'} there, {here.cpu} here"
    return "no known cause: same runtime, version and instructions; check the memory of both machines"


def _has_8_bit_weights(path: Path) -> bool:
    """Whether an ONNX file multiplies with signed weights beyond 7 bits."""
    if path.suffix.lower() != ".onnx":
        return False
    onnx = require("onnx")
    graph = onnx.load(str(path)).graph
    weights = (tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8)
    arrays = (onnx.numpy_helper.to_array(tensor) for tensor in weights)
    return any(array.ndim > 1 and np.abs(array.astype(np.int16)).max(initial=0) > _LARGEST_7_BIT for array in arrays)
