"""What the options `--input` and `--output` say about models that tledge did not make.

What is left open is read from the file where the file says it. What neither says is an error, never a guess: a model
that is fed the wrong values still answers, only worse, and a check would blame its quantization.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tledge.core.errors import SettingsError
from tledge.runtimes.forms import InputForm, parse_input

OutputKind = Literal["probabilities", "logits"]
OUTPUT_KINDS: tuple[OutputKind, ...] = ("probabilities", "logits")
_OPEN = InputForm()


@dataclass(frozen=True)
class ModelForm:
    """Everything declared about one model.

    `own` is said of this file and wins over what the file says; `default` is said of all and fills in what the file
    does not say. `output` None: the answers must be probabilities beyond doubt.
    """

    own: InputForm = _OPEN
    default: InputForm = _OPEN
    output: OutputKind | None = None


@dataclass(frozen=True)
class DeclaredForms:
    """What the options `--input` and `--output` say; the keys are names or paths of model files."""

    default_input: InputForm = _OPEN
    default_output: OutputKind | None = None
    inputs: Mapping[str, InputForm] = field(default_factory=dict)
    outputs: Mapping[str, OutputKind] = field(default_factory=dict)

    def of(self, path: Path) -> ModelForm:
        """What is declared about one file."""
        keys = (str(path), path.name)
        own = next((self.inputs[key] for key in keys if key in self.inputs), _OPEN)
        output = next((self.outputs[key] for key in keys if key in self.outputs), self.default_output)
        return ModelForm(own, self.default_input, output)

    def require_known(self, paths: Sequence[Path]) -> None:
        """Check that every file that is spoken of is among `paths`.

        Raises:
            SettingsError: it is not; a slip of the pen would otherwise leave a declaration without effect.
        """
        known = {name for path in paths for name in (str(path), path.name)}
        for name in (*self.inputs, *self.outputs):
            if name not in known:
                raise SettingsError(
                    f"expected one of the models ({', '.join(path.name for path in paths)}) before '=', but got "
                    f"{name!r}; correct the name"
                )


def parse_forms(inputs: Sequence[str], outputs: Sequence[str]) -> DeclaredForms:
    """Read the values of `--input` and `--output`, each `FORM` for all models or `FILE=FORM` for one.

    Args:
        inputs: forms as `parse_input` reads them.
        outputs: `probabilities` or `logits`.

    Raises:
        SettingsError: an unknown word, an impossible combination, or two declarations for the same file.
    """
    input_forms = {name: parse_input(text) for name, text in _by_file("--input", inputs).items()}
    kinds = {name: _parse_output(text) for name, text in _by_file("--output", outputs).items()}
    default_input, default_output = input_forms.pop(None, _OPEN), kinds.pop(None, None)
    return DeclaredForms(
        default_input,
        default_output,
        {name: form for name, form in input_forms.items() if name is not None},
        {name: kind for name, kind in kinds.items() if name is not None},
    )


def _by_file(option: str, texts: Sequence[str]) -> dict[str | None, str]:
    found: dict[str | None, str] = {}
    for text in texts:
        # From the right: a file's name may hold '=', a form never does.
        file, separator, form = text.rpartition("=")
        name = file if separator else None
        if name in found:
            whose = "all models" if name is None else name
            raise SettingsError(
                f"expected one {option} for {whose}, but got {found[name]!r} and {form!r}; join them with commas"
            )
        found[name] = form
    return found


def _parse_output(text: str) -> OutputKind:
    for kind in OUTPUT_KINDS:
        if text == kind:
            return kind
    raise SettingsError(f"expected {' or '.join(OUTPUT_KINDS)} for --output, but got {text!r}; choose one")
