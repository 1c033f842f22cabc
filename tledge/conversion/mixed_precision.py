"""Mixed precision: return the layers that int8 harms most to float until the drop on validation images holds.

The order is that of `tledge.conversion.sensitivity`. H. Wu et al. 2020 ("partial quantization") return one layer at a
time; here the groups double (1, 2, 4 … worst layers) until the drop holds, then the number is halved back between the
last group that failed and the first that held. VGG16's 14 to 15 layers so take at most nine files instead of sixteen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tledge.conversion.evaluator import LATENCY_RUNS, Evaluator
from tledge.conversion.format import ExportRequest
from tledge.conversion.recipe import Recipe
from tledge.conversion.registry import FORMATS
from tledge.conversion.sensitivity import layer_sqnr_db
from tledge.conversion.sidecar import FloatCost, MixedPrecisionFacts, QuickLatency, TrialFacts
from tledge.core.errors import VerificationError
from tledge.core.files import write_bytes
from tledge.core.limits import ROUNDING
from tledge.core.progress import Progress
from tledge.core.types import Images
from tledge.model.ranges import REDUCED_WEIGHT_LEVELS, WEIGHT_LEVELS
from tledge.stats.paired import PairedDrop

_RANKING_IMAGES = 16


@dataclass(frozen=True)
class Trial:
    """One file of the search, in the order in which they were made.

    `drop` is the reference's accuracy minus the file's on the validation images. `p50_ms` is the median of
    `LATENCY_RUNS` single inferences within this process.
    """

    float_layers: tuple[str, ...]
    drop: PairedDrop
    size_bytes: int
    p50_ms: float
    holds: bool

    def facts(self) -> TrialFacts:
        """For the sidecar."""
        return TrialFacts(
            float_layers=self.float_layers,
            drop=self.drop.value,
            interval=(self.drop.low, self.drop.high),
            lost=self.drop.lost,
            won=self.drop.won,
            n=self.drop.n,
            size_bytes=self.size_bytes,
            p50_ms=self.p50_ms,
            holds=self.holds,
        )


@dataclass(frozen=True)
class MixedPrecision:
    """The file that holds the limit, and how it was found; `sqnr_db` is empty if no layer had to be ranked."""

    max_drop: float
    content: bytes
    kept: Trial
    trials: tuple[Trial, ...]
    sqnr_db: Mapping[str, float]

    def facts(self) -> MixedPrecisionFacts:
        """For the sidecar."""
        first = self.trials[0]
        return MixedPrecisionFacts(
            max_drop=self.max_drop,
            subset="val",
            n=first.drop.n,
            cost=FloatCost(
                size_bytes=self.kept.size_bytes - first.size_bytes, p50_ms=round(self.kept.p50_ms - first.p50_ms, 4)
            ),
            latency=QuickLatency(n=LATENCY_RUNS, batch=1, measured="quickly, within the exporting process"),
            sqnr_db={name: round(value, 2) for name, value in self.sqnr_db.items()},
            steps=tuple(trial.facts() for trial in self.trials),
        )


def hold_drop(
    recipe: Recipe,
    request_with: Callable[[tuple[str, ...]], ExportRequest],
    images: Images,
    evaluator: Evaluator,
    max_drop: float,
    scratch: Path,
    progress: Progress,
) -> MixedPrecision:
    """Make an int8 file whose accuracy drops by at most `max_drop`, with as few layers in float as the search finds.

    Args:
        recipe: an int8 recipe; the layers it declares stay in float throughout.
        request_with: what to convert when these layers, in the model's order, are in float.
        images: (N, H, W, C) uint8, those that the file is calibrated on; a few of them rank the layers.
        evaluator: measures the drop.
        max_drop: largest allowed drop, 0..1; decided on the measured value itself.
        scratch: where files are written to be measured; the last one is left there.
        progress: called with (what, files made, most files to make).

    Raises:
        VerificationError: not even the model with every layer in float holds the limit.
    """
    graph = request_with(()).graph
    search = _Search(recipe, request_with, evaluator, max_drop, scratch, progress)
    layers = graph.matrix_layers
    declared = set(recipe.float_layers)
    content, kept = search.make(layers, declared)
    ranking: dict[str, float] = {}
    if not kept.holds:
        search.require_float_holds()
        shown = images[np.linspace(0, len(images) - 1, min(_RANKING_IMAGES, len(images))).round().astype(int)]
        ranking = layer_sqnr_db(graph, shown, REDUCED_WEIGHT_LEVELS if recipe.reduce_range else WEIGHT_LEVELS)
        worst_first = sorted((name for name in layers if name not in declared), key=ranking.__getitem__)
        content, kept = search.return_layers(layers, declared, worst_first)
    progress(search.title, search.most, search.most)
    return MixedPrecision(max_drop, content, kept, tuple(search.trials), ranking)


class _Search:
    """Makes and measures files, one after the other."""

    def __init__(
        self,
        recipe: Recipe,
        request_with: Callable[[tuple[str, ...]], ExportRequest],
        evaluator: Evaluator,
        max_drop: float,
        scratch: Path,
        progress: Progress,
    ) -> None:
        self.trials: list[Trial] = []
        self.title = f"holding the drop of {recipe.name}"
        self.most = 0
        self._recipe = recipe
        self._request_with = request_with
        self._evaluator = evaluator
        self._max_drop = max_drop
        self._scratch = scratch
        self._progress = progress

    def make(self, layers: tuple[str, ...], in_float: set[str]) -> tuple[bytes, Trial]:
        """Convert with these layers in float and measure the file."""
        self.most = self.most or 2 * len(layers).bit_length() + 2
        self._progress(self.title, len(self.trials), self.most)
        names = tuple(name for name in layers if name in in_float)
        content = FORMATS[self._recipe.format].convert(self._request_with(names))
        write_bytes(self._scratch, content)
        hits, p50_ms = self._evaluator.evaluate(self._scratch)
        drop = self._evaluator.drop(hits)
        self.trials.append(Trial(names, drop, len(content), p50_ms, self._holds(drop)))
        return content, self.trials[-1]

    def require_float_holds(self) -> None:
        """Refuse at once what no layer in float can save: an optimized model that is itself too far from the original.

        Raises:
            VerificationError: it is.
        """
        drop = self._evaluator.drop(self._evaluator.model_hits())
        if not self._holds(drop):
            raise self._hopeless(drop)

    def return_layers(self, layers: tuple[str, ...], declared: set[str], worst_first: list[str]) -> tuple[bytes, Trial]:
        """Return the fewest of the worst layers, in that order, with which the drop is found to hold.

        Raises:
            VerificationError: all of them are not enough.
        """
        failed, count = 0, min(1, len(worst_first))
        content, kept = self.make(layers, declared | set(worst_first[:count]))
        while not kept.holds:
            if count == len(worst_first):
                raise self._hopeless(kept.drop)
            failed, count = count, min(2 * count, len(worst_first))
            content, kept = self.make(layers, declared | set(worst_first[:count]))
        while count - failed > 1:
            middle = (failed + count) // 2
            smaller = self.make(layers, declared | set(worst_first[:middle]))
            if smaller[1].holds:
                count, (content, kept) = middle, smaller
            else:
                failed = middle
        return content, kept

    def _holds(self, drop: PairedDrop) -> bool:
        # The value, not its interval: that of a small validation subset reaches beyond any limit. `check` decides.
        return drop.value <= self._max_drop + ROUNDING

    def _hopeless(self, drop: PairedDrop) -> VerificationError:
        return VerificationError(
            f"expected {self._recipe.name} to drop by at most {self._max_drop:g} on validation images, but with every "
            f"layer in float it still drops by {drop.value:.4f} ({drop.lost} lost, {drop.won} won, n = {drop.n}); no "
            "file was written: allow a larger --max-drop or train the model further"
        )
