"""The main job: train, export, check, bench and report, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tledge.benchmark.bench import BenchSettings, bench
from tledge.conversion.export import export
from tledge.conversion.recipe import DEFAULT_RECIPES, load_recipes
from tledge.core.environment import available_cores
from tledge.core.progress import Progress, silent
from tledge.evaluation.check import check
from tledge.evaluation.comparison import CheckResult
from tledge.evaluation.settings import CheckSettings
from tledge.reporting.report import Report, report
from tledge.training.settings import TrainSettings
from tledge.training.train import TrainedRun, train

# A first run on few images shall not end in a failure that only says so; `tledge check` is the strict one.
TOLERANT = CheckSettings(on_undecided="pass")


@dataclass(frozen=True)
class PipelineResult:
    """What the stages of one `tledge run` returned that a person wants to see."""

    trained: TrainedRun
    checked: CheckResult
    report: Report


def run_pipeline(
    data: Path,
    settings: TrainSettings,
    out: Path,
    *,
    recipes: tuple[str, ...] = (),
    checking: CheckSettings = TOLERANT,
    threads: int | None = None,
    progress: Progress = silent,
) -> PipelineResult:
    """Run every stage; the run stays usable if a later stage fails.

    Raises:
        TledgeError: what the stages raise; recipes and bench settings are checked before training begins.
    """
    checking.require_baseline()
    limits = [checking.limits, *(recipe.limits for recipe in load_recipes(recipes or DEFAULT_RECIPES))]
    bench_settings = BenchSettings(threads=available_cores() if threads is None else threads)
    trained = train(data, settings, out, progress)
    export(out, recipes, progress=progress)
    # The verdict before the latencies, unless it depends on them.
    measured_first = any("max_latency_ratio" in each for each in limits)
    if measured_first:
        bench(out, bench_settings, progress=progress)
    checked = check(out, checking, progress=progress)
    if not measured_first:
        bench(out, bench_settings, progress=progress)
    return PipelineResult(trained, checked, report(out))
