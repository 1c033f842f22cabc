"""What adopting a model asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tledge.core.settings import Settings, option, option_of
from tledge.core.types import ResizeMode
from tledge.data.label_source import DataSettings
from tledge.runtimes.declared import Declaration, parse_forms
from tledge.training.settings import TrainSettings


@dataclass(frozen=True)
class AdoptSettings(Settings):
    """How a finished model takes pixels and what it puts out, and how its images are split.

    `labels` is a file of class names, one a line in the order of the outputs; None for the folders of the data in
    alphabetical order, as Keras reads them. `input` and `output` as for `tledge check`, `resize` as for training.

    Raises:
        SettingsError: an unknown word, an impossible combination or a number out of range.
    """

    labels: Path | None = option(
        None,
        help="Class names, one a line in the order of the model's outputs. Default: the folders in alphabetical order.",
        metavar="FILE",
    )
    input: str | None = option(
        None,
        help="The pixels that the model takes: 0..255, 0..1, -1..1, caffe (BGR minus ImageNet's means), torch (0..1, "
        "ImageNet's mean and deviation), or mean:R/G/B,std:R/G/B in pixels of 0..255; and rgb or bgr. 0..255 for a "
        "model that scales them itself.",
        metavar="FORM",
    )
    output: str | None = option(
        None,
        help="What the model puts out: logits get a softmax. Default: probabilities that sum to 1, or one sigmoid, "
        "which is the probability of the second class.",
        metavar="KIND",
    )
    resize: ResizeMode = option(
        "stretch",
        help="How pictures of another shape came to the input when the model was trained: stretched, their middle cut "
        "out, or whole between black bars (letterbox).",
    )
    labels_from: str | None = option_of(DataSettings, "labels_from")
    seed: int = option_of(TrainSettings, "seed")
    val_fraction: float = option_of(TrainSettings, "val_fraction")
    test_fraction: float = option_of(TrainSettings, "test_fraction")
    drop_duplicates: bool = option_of(TrainSettings, "drop_duplicates")
    skip_unreadable: bool = option_of(TrainSettings, "skip_unreadable")

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_forms(_given(self.input), _given(self.output))

    def declaration(self, model: Path) -> Declaration:
        """What is declared about the model's file.

        Raises:
            SettingsError: it is said of another file.
        """
        # Said of the one model there is, so it wins over what the file says, with or without the file's name.
        inputs, outputs = (
            tuple(text if "=" in text else f"{model}={text}" for text in _given(value))
            for value in (self.input, self.output)
        )
        forms = parse_forms(inputs, outputs)
        forms.require_known([model])
        return forms.of(model)


def _given(value: str | None) -> tuple[str, ...]:
    return () if value is None else (value,)
