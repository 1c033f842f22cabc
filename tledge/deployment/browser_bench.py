"""Measure a run's artefacts in a browser: a kit that is a web page, opened from a server here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import numpy as np

from tledge.benchmark.conditions import Watch
from tledge.core.environment import available_cores
from tledge.core.errors import ArtefactError, RemoteError, SettingsError
from tledge.core.progress import Progress, silent
from tledge.core.records import Record
from tledge.core.types import Json
from tledge.deployment.hosts.browser import BrowserHost, Files, open_page
from tledge.deployment.kit import kit_content
from tledge.deployment.kit_bench import HostBenchResult, HostBenchSettings, HostMeasurement
from tledge.deployment.targets import DeviceTarget
from tledge.deployment.web_runtimes import WEB_RUNTIMES, computes, web_versions
from tledge.runs.bench_json import (
    HostBench,
    HostEnvironment,
    HostLatencyMs,
    HostSettings,
    HostTiming,
    Verified,
    this_machine,
)
from tledge.runs.rundir import open_run, require_writable
from tledge.stats.latency import drift, median_interval

_SOFTWARE = "swiftshader"  # what browsers take without a driver


class PageTiming(Record, frozen=True, kw_only=True):
    """One file in a page: `samples_ms[r]` are round r's samples, each the mean of `repeats` inferences."""

    name: str
    sha256: str
    threads: int
    load_ms: float
    first_ms: float
    repeats: int
    samples_ms: tuple[tuple[float, ...], ...]


class PageReport(Record, frozen=True, kw_only=True):
    """What `bench.js` posts; `clock_step_ms` is the least time that the page's clock tells apart.

    `adapter` is what WebGPU computes on, None where WebAssembly computes.
    """

    isolated: bool
    adapter: str | None
    clock_step_ms: float
    warmup_ms: float
    verified: tuple[Verified, ...]
    results: tuple[PageTiming, ...]


def measure_in_browsers(
    run_path: Path,
    browsers: Sequence[BrowserHost],
    settings: HostBenchSettings,
    *,
    target: DeviceTarget | None = None,
    data: Path | None = None,
    progress: Progress = silent,
) -> HostBenchResult:
    """Measure a run in browsers of this machine, one after the other; nothing is written.

    Args:
        run_path: the run.
        browsers: each once.
        settings: how to measure.
        target: whose artefacts, exported if they are missing; None for every exported artefact of the run.
        data: where the run's images are now; None for where they were at training.
        progress: called with (what, parts done, parts in all).

    Raises:
        SettingsError: more threads than cores.
        MissingDependencyError: npm is missing, and the runtimes were never fetched.
        RemoteError: npm, a browser, or a file in it fails, or answers otherwise than here.
        RunError, ArtefactError, DataError, VerificationError: as `tledge.deployment.kit.build_kit`.
    """
    run = open_run(run_path)
    require_writable(run)
    threads = _threads(settings, target)
    versions = [browser.version() for browser in browsers]  # all of them before anything slow begins
    kits = {
        provider: kit_content(
            run_path, "site", target=target, data=data, only=partial(computes, provider), progress=progress
        )
        for provider in dict.fromkeys(browser.provider for browser in browsers)
    }
    if "webgpu" in kits and not kits["webgpu"][1]["artefacts"]:
        raise ArtefactError("expected a float file for WebGPU, but got none; export tflite-float16 or onnx-float32")
    measured = tuple(
        _measure(browser, version, *kits[browser.provider], threads, settings, progress)
        for browser, version in zip(browsers, versions, strict=True)
    )
    return HostBenchResult(run, measured)


def files_of(members: Mapping[str, bytes | Path]) -> Files:
    """A kit's content as a server has it."""

    def read(name: str) -> bytes | None:
        content = members.get(name)
        return content.read_bytes() if isinstance(content, Path) else content

    return read


def _threads(settings: HostBenchSettings, target: DeviceTarget | None) -> tuple[int, ...]:
    cores = available_cores()
    if any(count > cores for count in settings.threads):
        raise SettingsError(
            f"expected --threads of at most {cores}, the cores available here, but got {max(settings.threads)}"
        )
    of_target = () if target is None else tuple(count for count in target.threads if count <= cores)
    return settings.threads or of_target or (cores,)


def _measure(
    browser: BrowserHost,
    version: tuple[str, str],
    members: Mapping[str, bytes | Path],
    kit: Json,
    threads: Sequence[int],
    settings: HostBenchSettings,
    progress: Progress,
) -> HostMeasurement:
    asked = {name: getattr(settings, name) for name in ("rounds", "samples", "warmup")}
    query = urlencode({"post": "", "threads": ",".join(map(str, threads)), "provider": browser.provider, **asked})
    watch: Watch | None = None
    report = PageReport(isolated=False, adapter=None, clock_step_ms=0, warmup_ms=0, verified=(), results=())
    with open_page(browser, files_of(members), f"bench.html?{query}") as page:
        for message in page.messages(settings.time_limit):
            if "result" in message:
                report = _read(browser, message["result"])
            else:
                what, done, count = message["progress"]
                # By the first round all processes of the browser are there.
                if watch is None and what.startswith("measuring"):
                    watch = Watch(page.pids())
                elif watch is not None:
                    watch.look()
                progress(f"{browser.name}: {what}", int(done), int(count))
        assert watch is not None
        watch.look(last=True)
        seen, notes = watch.result(drift([item.samples_ms for item in report.results]))
    entry = HostBench(
        on=browser.on,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=HostEnvironment(
            machine=this_machine(),
            versions=dict([version]) | web_versions({item["runtime"] for item in kit["artefacts"]}, report.adapter),
            before=seen.before,
            after=seen.after,
            other_cores=seen.other_cores,
        ),
        settings=HostSettings(
            batch=1,
            **asked,
            warmup_ms=report.warmup_ms,
            threads=tuple(threads),
            target=None if kit["target"] is None else kit["target"]["name"],
        ),
        verified=report.verified,
        skipped=(),
        over_limits=(),
        notes=(*_notes(report), *notes),
        results=tuple(_timing(kit, item) for item in report.results),
    )
    return HostMeasurement(browser, entry, 0)


def _read(browser: BrowserHost, told: Json) -> PageReport:
    try:
        report = msgspec.convert(told, type=PageReport, strict=False)
    except msgspec.ValidationError as error:
        raise RemoteError(f"expected numbers of {browser.name}, but got something else ({error}); try again") from None
    if not report.isolated:
        raise RemoteError(
            f"expected a cross-origin isolated page in {browser.name}, but it is not: WebAssembly has one thread and "
            "a coarse clock there; take another browser with --on browser:COMMAND"
        )
    return report


def _notes(report: PageReport) -> list[str]:
    notes = [f"the page's clock has steps of {report.clock_step_ms:g} ms (cross-origin isolated)"]
    repeated = [f"{item.name} {item.repeats}" for item in report.results if item.repeats > 1]
    if report.adapter is not None and _SOFTWARE in report.adapter:
        notes.append(f"the processor stands in for a GPU ({report.adapter}): latencies say nothing of a GPU's")
    if repeated:
        notes.append(f"samples are means over several inferences, short beside the clock's step: {', '.join(repeated)}")
    return notes


def _timing(kit: Json, item: PageTiming) -> HostTiming:
    (artefact,) = (one for one in kit["artefacts"] if one["name"] == item.name)
    flat = np.concatenate([np.asarray(part) for part in item.samples_ms])
    p50, p90, p99 = np.percentile(flat, (50, 90, 99))
    interval = median_interval(item.samples_ms)
    return HostTiming(
        name=item.name,
        runtime=WEB_RUNTIMES[artefact["runtime"]].name,
        precision=artefact["precision"],
        size_bytes=artefact["size_bytes"],
        sha256=item.sha256,
        batch=1,
        threads=item.threads,
        n=flat.size,
        latency_ms=HostLatencyMs(
            p50=round(float(p50), 4),
            p90=round(float(p90), 4),
            p99=round(float(p99), 4),
            mean=round(float(flat.mean()), 4),
            min=round(float(flat.min()), 4),
        ),
        p50_interval_95=(round(interval.low, 4), round(interval.high, 4)),
        load_ms=round(item.load_ms, 2),
        first_ms=round(item.first_ms, 2),
        peak_rss_mb=None,
        model_rss_mb=None,
        samples_ms=tuple(tuple(round(value, 4) for value in part) for part in item.samples_ms),
    )
