"""Check a run where it will be used: the same images, gates and statistics, answered on other machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tledge.core.cluster import ALONE, ClusterSettings, connected
from tledge.core.errors import ArtefactError, SettingsError
from tledge.core.progress import Progress, silent
from tledge.data.label_source import FOLDERS, DataSettings
from tledge.deployment.answering import RemoteAnswers
from tledge.deployment.browser_answers import BrowserAnswers
from tledge.deployment.check_settings import HERE, HostCheckSettings
from tledge.deployment.hosts import kind_of, machine_at, require_each_once, require_no_provider
from tledge.deployment.hosts.browser import BrowserHost
from tledge.deployment.hosts.host import DEFAULT_ACCESS, Access
from tledge.deployment.micro_answers import MicroAnswers
from tledge.deployment.other_kernels import explain_all
from tledge.evaluation.answers import Answers, images_resized
from tledge.evaluation.check import OpenedCheck, check, open_check
from tledge.evaluation.files import write_check
from tledge.evaluation.hosts import LATENCY, AnsweringHost, judge_there
from tledge.evaluation.results import CheckResult
from tledge.evaluation.settings import STRICT, CheckSettings
from tledge.runs.rundir import open_run


def _remote(on: str, access: Access, settings: HostCheckSettings) -> AnsweringHost:
    return RemoteAnswers(machine_at(on, access), settings.time_limit)


def _browser(on: str, access: Access, settings: HostCheckSettings) -> AnsweringHost:
    return BrowserAnswers(BrowserHost.reach(on, access), settings.time_limit)


def _micro(on: str, access: Access, settings: HostCheckSettings) -> AnsweringHost:
    if on != MicroAnswers.on:
        raise SettingsError(f"expected --on micro alone, which is here, but got {on!r}; change it")
    return MicroAnswers()


HOSTS: Mapping[str, tuple[str, Callable[[str, Access, HostCheckSettings], AnsweringHost]]] = {
    "ssh": ("ssh://user@host[:port]", _remote),
    "adb": ("adb[:SERIAL]", _remote),
    "browser": ("browser[+webgpu][:COMMAND]", _browser),
    "micro": ("micro", _micro),
}
"""By what an address begins with: how it looks, and what makes the host of it, which is not asked yet."""


def check_run(
    run_path: Path,
    settings: CheckSettings = STRICT,
    *,
    artefacts: Sequence[Path] = (),
    data: Path | None = None,
    reading: DataSettings = FOLDERS,
    where: HostCheckSettings = HERE,
    access: Access = DEFAULT_ACCESS,
    cluster: ClusterSettings = ALONE,
    progress: Progress = silent,
) -> CheckResult:
    """Compare artefacts with the reference, here or on other machines; write `check.json` and `predictions.csv`.

    The reference always answers here. On a host, every file has to answer every image; what its kind cannot answer
    with, such as float files in LiteRT Micro, is left out and noted, and refused where it was asked for. Files answer
    here as well, so that answers there and here can be compared; the verdict is that of the hosts.

    Args:
        run_path: the run.
        settings: limits and what to do with undecided ones.
        artefacts: files to check; empty for every artefact of the run.
        data: where the run's images are now, if its test images are there; otherwise another folder of labelled images,
            all of which are checked on. None for the run's test subset where it was at training.
        reading: how the classes of other images are told.
        where: who answers.
        access: how to get to other machines.
        cluster: whose machines share the images that would be answered here.
        progress: called with (what, images done, images in all).

    Raises:
        SettingsError: a file or a host is given twice, an address that is none, a limit on a baseline without one, or
            on a latency with hosts.
        RunError, DataError, ArtefactError: what is to be compared is missing, damaged or of another run.
        MissingDependencyError, RemoteError: a host cannot be reached, lacks something or fails; nothing is written.
    """
    if not where.on:
        return check(
            run_path, settings, artefacts=artefacts, data=data, reading=reading, cluster=cluster, progress=progress
        )
    settings.require_evidence()
    require_no_provider(settings.provider)
    if LATENCY in settings.limits:
        raise SettingsError(
            "expected gates that hosts can be held against, but got max_latency_ratio, which is measured beside Keras "
            "here; leave it out and measure there with `tledge bench --on`"
        )
    hosts = [_host(on, access, where) for on in where.on]
    require_each_once([host.on for host in hosts])
    files = artefacts or open_run(run_path).artefacts()
    for done, host in enumerate(hosts):  # all of them before anything slow begins
        progress("asking the hosts", done, len(hosts))
        host.require_ready(files)
    progress("asking the hosts", len(hosts), len(hosts))
    opened = open_check(run_path, settings, artefacts=artefacts, data=data, reading=reading, progress=progress)
    chosen = [_chosen(host, opened, asked=bool(artefacts)) for host in hosts]
    used = opened.only({artefact.name for one in chosen for artefact in one.artefacts})
    sets = [
        used.images,
        *(() if used.unlabelled is None else (used.unlabelled,)),
        *images_resized(settings, used.candidates, used.images).values(),
    ]
    told = [host.answer(one.candidates, sets, progress) for host, one in zip(hosts, chosen, strict=True)]
    with connected(cluster) as calls:
        answers, further = used.answer_here(progress, calls)
    judged = []
    for host, one, found in zip(hosts, chosen, told, strict=True):
        here = (_of(used, one, answers), None if further is None else _of(used, one, further))
        left_out = [artefact for artefact in opened.artefacts if artefact not in one.artefacts]
        notes = [f"{artefact.name}: not asked of {host.name}, which takes {host.wants}" for artefact in left_out]
        judged.append(judge_there(one, here, host, found, notes, explain_all))
    result = replace(used.judge(answers, further), hosts=tuple(judged))
    write_check(result)
    return result


def _chosen(host: AnsweringHost, opened: OpenedCheck, *, asked: bool) -> OpenedCheck:
    """The check of the files that a host takes; all of them where these were asked for."""
    others = [artefact for artefact in opened.artefacts if not host.takes(artefact)]
    if others and asked:
        raise ArtefactError(
            f"expected {host.wants} for --on {host.on}, but got {others[0].path}, which is {others[0].precision}; "
            "leave it out, or export another"
        )
    if len(others) == len(opened.artefacts):
        raise ArtefactError(f"expected {host.wants} for --on {host.on}, but the run has none; export one first")
    return opened.only({artefact.name for artefact in opened.artefacts if artefact not in others})


def _of(used: OpenedCheck, one: OpenedCheck, answers: Answers) -> Answers:
    """Answers of the files of a smaller check alone."""
    names = [candidate.name for candidate in used.candidates]
    places = [names.index(candidate.name) for candidate in one.candidates]
    resized = {way: (named[0], *(named[1 + place] for place in places)) for way, named in answers.resized.items()}
    return Answers(answers.reference, tuple(answers.candidates[place] for place in places), resized)


def _host(on: str, access: Access, settings: HostCheckSettings) -> AnsweringHost:
    kind = HOSTS.get(kind_of(on))
    if kind is None:
        *others, last = (form for form, _ in HOSTS.values())
        raise SettingsError(f"expected --on as {', '.join(others)} or {last}, but got {on!r}; change it")
    return kind[1](on, access, settings)
