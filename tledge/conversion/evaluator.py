"""How often models name the right class of a run's validation images; the original model is asked once."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from tledge.runs.images import run_images
from tledge.runs.manifest import Manifest
from tledge.runs.rundir import RunDir
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier, open_classifier
from tledge.stats.paired import Hits, PairedDrop, paired_drop

LATENCY_RUNS = 20
_WARM_UP_RUNS = 3
_BATCH = 16


class Evaluator:
    """Evaluates files on a run's validation images; its test images are never opened.

    Raises:
        DataError: validation images are gone or changed.
    """

    def __init__(self, run: RunDir, manifest: Manifest) -> None:
        self._run = run
        reference = open_classifier(run.reference, MODEL_OF_A_RUN)
        self._images = run_images(run, manifest, {reference.image_size_px, manifest.image_size_px}, "val")
        self._reference = self._hits(reference)

    def evaluate(self, path: Path) -> tuple[Hits, float]:
        """Hits of a model file, and the median of a few single inferences in milliseconds with all available cores."""
        classifier = open_classifier(path, MODEL_OF_A_RUN)
        return self._hits(classifier), self._quick_p50_ms(classifier)

    def model_hits(self) -> Hits:
        """Hits of the run's own Keras model, which only in an optimized run is not the reference."""
        same = self._run.model == self._run.reference
        return self._reference if same else self._hits(open_classifier(self._run.model, MODEL_OF_A_RUN))

    def drop(self, hits: Hits) -> PairedDrop:
        """Accuracy of the reference minus that of the other."""
        return paired_drop(self._reference, hits)

    def _hits(self, classifier: ImageClassifier) -> Hits:
        pixels, labels = self._images.stores[classifier.image_size_px], self._images.labels
        answers = np.concatenate(
            [classifier.predict(batch) for batch in pixels.batches(np.arange(len(labels)), _BATCH)]
        )
        # NaN is no answer, although argmax makes a class of it.
        return np.asarray((answers.argmax(axis=1) == labels) & np.isfinite(answers).all(axis=1))

    def _quick_p50_ms(self, classifier: ImageClassifier) -> float:
        classifier.prepare(self._images.stores[classifier.image_size_px].take(np.arange(1)))
        seconds = []
        for _ in range(_WARM_UP_RUNS + LATENCY_RUNS):
            started = time.perf_counter()
            classifier.invoke()
            seconds.append(time.perf_counter() - started)
        return round(1e3 * float(np.median(seconds[_WARM_UP_RUNS:])), 4)
