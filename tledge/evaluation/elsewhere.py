"""`check --on NAME`: files that answer elsewhere than in the runtime that opens them here.

A place is a function here and a line in `PLACES`; it takes the files of a check as they were opened and gives back
those that can answer there, opened there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from tledge.conversion.artefacts import RunArtefact
from tledge.core.errors import ArtefactError, SettingsError
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier, open_classifier
from tledge.runtimes.options import RuntimeOptions

Opened: TypeAlias = Sequence[tuple[RunArtefact, ImageClassifier]]


def require_places(names: Sequence[str]) -> None:
    """Check, before slow work, that every name is that of a place, and each is given once.

    Raises:
        SettingsError: one is not.
    """
    for place, name in enumerate(names):
        if name not in PLACES:
            raise SettingsError(f"expected --on {' or '.join(PLACES)}, but got {name!r}; correct it or leave it out")
        if name in names[:place]:
            raise SettingsError(f"expected each --on once, but got {name} again; leave one out")


def opened_on(names: Sequence[str], opened: Opened, *, asked: bool) -> Opened:
    """The files of a check as the places have them; as they are if no place is named.

    Args:
        names: of places.
        opened: files of a run, opened here.
        asked: whether these files were asked for one by one, so that none may be left out.

    Raises:
        ArtefactError: a file that was asked for cannot answer there, or none can.
        MissingDependencyError: what runs them there is not installed.
    """
    return [pair for name in names for pair in PLACES[name](opened, asked)] if names else opened


def _in_litert_micro(opened: Opened, asked: bool) -> Opened:
    found = []
    for artefact, _ in opened:
        if artefact.path.suffix.lower() == ".tflite" and artefact.precision == "int8":
            options = RuntimeOptions(micro=True)
            found.append((artefact, open_classifier(artefact.path, MODEL_OF_A_RUN, options=options)))
        elif asked:
            raise ArtefactError(
                f"expected an int8 .tflite file for --on micro, but got {artefact.path}, which is "
                f"{artefact.precision}; export one with --recipe tflite-int8"
            )
    if not found:
        raise ArtefactError(
            "expected an int8 .tflite file for --on micro, but the run has none; export one with --recipe tflite-int8"
        )
    return found


PLACES: Mapping[str, Callable[[Opened, bool], Opened]] = {"micro": _in_litert_micro}
"""By name: LiteRT Micro, the interpreter of microcontrollers, here."""
