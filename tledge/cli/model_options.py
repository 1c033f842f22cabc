"""Options that describe models without a run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tledge.core.errors import SettingsError

if TYPE_CHECKING:
    from tledge.runtimes.declared import DeclaredForms

_OPTIONS = (
    click.option(
        "--reference",
        type=click.Path(path_type=Path),
        metavar="MODEL",
        help="Instead of RUN: the original model, a .keras, .onnx or .tflite file or a SavedModel directory. Needs "
        "--artefact, --data and --labels.",
    ),
    click.option(
        "--labels",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="With --reference: class names, one per line, in the order of the models' outputs.",
    ),
    click.option(
        "--input",
        "inputs",
        multiple=True,
        metavar="[MODEL=]FORM",
        help="With --reference: the pixels a model takes, words joined by commas. Values: 0..255, 0..1, -1..1, caffe "
        "(BGR minus ImageNet's means), torch (0..1, ImageNet's mean and deviation), or mean:R/G/B,std:R/G/B in pixels "
        "of 0..255. Order: rgb or bgr. Layout: nhwc or nchw. A side such as 224px where the model leaves it open. "
        "Repeat it: FORM fills in what a file does not say itself, MODEL=FORM overrules that file.",
    ),
    click.option(
        "--output",
        "outputs",
        multiple=True,
        metavar="[MODEL=]KIND",
        help="With --reference: probabilities or logits. Default: rows must be probabilities that sum to 1.",
    ),
)


@dataclass(frozen=True)
class ModelChoice:
    """A check without a run; `artefacts` and `data` are options of the command itself."""

    reference: Path
    labels: Path
    forms: DeclaredForms


def model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take --reference, --labels, --input and --output; the command gets them as `models`, None without --reference.

    Raises:
        SettingsError: one of the others without --reference, --reference without --labels, or an unknown form.
    """

    @functools.wraps(function)
    def collect(
        *arguments: Any,
        reference: Path | None,
        labels: Path | None,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        **others: Any,
    ) -> Any:
        return function(*arguments, models=_choice(reference, labels, inputs, outputs), **others)

    for decorate in reversed(_OPTIONS):
        collect = decorate(collect)
    return collect


def _choice(
    reference: Path | None, labels: Path | None, inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> ModelChoice | None:
    from tledge.runtimes.declared import parse_forms

    if reference is None:
        given = [name for name, value in (("--labels", labels), ("--input", inputs), ("--output", outputs)) if value]
        if given:
            raise SettingsError(
                f"expected --reference MODEL with {given[0]}, but got none; a run's models need no description"
            )
        return None
    if labels is None:
        raise SettingsError("expected --labels FILE with --reference, but got none; write one class name per line")
    return ModelChoice(reference, labels, parse_forms(inputs, outputs))
