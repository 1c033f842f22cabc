"""Files that answer in LiteRT Micro, the interpreter of microcontrollers, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tledge.conversion.artefacts import RunArtefact
from tledge.core.dependencies import require
from tledge.core.environment import versions
from tledge.core.progress import Progress
from tledge.core.types import Probabilities
from tledge.evaluation.candidates import Candidate
from tledge.evaluation.hosts import HostAnswers
from tledge.runs.bench_json import this_machine
from tledge.runs.check_json import AnsweringEnvironment
from tledge.runs.images import ImageSet
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier, open_classifier
from tledge.runtimes.options import RuntimeOptions

_BATCH = 16


@dataclass(frozen=True)
class MicroAnswers:
    """LiteRT Micro in place of LiteRT, as `tledge.evaluation.hosts.AnsweringHost`."""

    on = name = "micro"
    wants = "an int8 .tflite file"

    def require_ready(self, files: Sequence[Path]) -> None:
        """As `AnsweringHost`.

        Raises:
            MissingDependencyError: it is not installed.
        """
        require("tflite_micro.python.tflite_micro.runtime")

    def takes(self, artefact: RunArtefact) -> bool:
        """As `AnsweringHost`: it has kernels for others too, which no microcontroller has the time for."""
        return artefact.path.suffix.lower() == ".tflite" and artefact.precision == "int8"

    def answer(self, files: Sequence[Candidate], images: Sequence[ImageSet], progress: Progress) -> HostAnswers:
        """As `AnsweringHost`.

        Raises:
            ArtefactError: LiteRT Micro refuses a file.
            DataError: an image has changed since it was listed.
        """
        options = RuntimeOptions(micro=True)
        opened = [(file, open_classifier(file.path, MODEL_OF_A_RUN, options=options)) for file in files]
        probabilities = tuple(
            tuple(self._answers(file, classifier, several, progress) for file, classifier in opened)
            for several in images
        )
        found = {name: versions()[name] for name in ("python", "tflite-micro")}
        environment = AnsweringEnvironment(machine=this_machine(), versions=found)
        return HostAnswers(environment, tuple(classifier.runtime for _, classifier in opened), probabilities)

    def _answers(
        self, file: Candidate, classifier: ImageClassifier, images: ImageSet, progress: Progress
    ) -> Probabilities:
        rows, done = [], 0
        for pixels in images.stores[classifier.image_size_px].batches(np.arange(images.n), _BATCH):
            progress(f"{file.name} in LiteRT Micro", done, images.n)
            rows.append(classifier.predict(pixels))
            done += len(pixels)
        progress(f"{file.name} in LiteRT Micro", done, images.n)
        return np.concatenate(rows)
