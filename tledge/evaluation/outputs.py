"""A check's result for the machines of a pipeline: JUnit XML, annotations of GitHub Actions; and its sentences."""

from __future__ import annotations

from tledge.core.dependencies import require
from tledge.core.escaping import visible, workflow_message, workflow_property
from tledge.evaluation.baseline import Flip
from tledge.evaluation.gates.gate import Gate
from tledge.evaluation.results import ArtefactCheck, ChangedAnswer, CheckResult
from tledge.runs.check_json import AgainstHere


def gate_value(value: float | None, low: float | None, high: float | None) -> str:
    """A gate's value with its interval, for people; None for what there is none of."""
    if value is None:
        return "–"
    interval = "" if low is None or high is None else f" ({low:.4g} to {high:.4g})"
    return f"{value:.4g}{interval}"


def gate_sentence(name: str, gate: Gate) -> str:
    """One line about one gate of a file."""
    note = f", {gate.note}" if gate.note else ""
    images = f", n = {gate.n}" if gate.n else ""
    return f"{name}: {gate.name} is {gate_value(gate.value, gate.low, gate.high)}, limit {gate.limit:.4g}{images}{note}"


def flip_sentence(flip: Flip) -> str:
    """One line about one image that changed its class."""
    return f"{flip.path} ({flip.label}): {flip.before} → {flip.after}"


def changed_sentence(image: ChangedAnswer) -> str:
    """One line about one image for which the file names another class than the reference."""
    return f"{image.path}: {image.reference} → {image.artefact}"


def unchecked(result: CheckResult) -> list[str]:
    """One line about each thing that was not checked: files of the baseline, and what the notes say."""
    notes = dict.fromkeys(note for _, one in result.judged for note in one.notes)
    return [*(f"{name}: in the baseline, but not checked now" for name in result.missing), *notes]


def judged_artefacts(result: CheckResult) -> list[tuple[str, ArtefactCheck]]:
    """Every file that makes the verdict, with what it is called: by its name, on a host also by that of the host."""
    return [
        (f"{item.name} on {where}" if where else item.name, item)
        for where, one in result.judged
        for item in one.artefacts
    ]


def host_sentence(name: str, against: AgainstHere, n: int) -> str:
    """One line about how far a file's answers on a host are from those here."""
    why = f": {against.reason}" if against.reason else ""
    return (
        f"{name}: answers at most {against.max_probability_difference:.2g} from those here, in the mean "
        f"{against.mean_probability_difference:.2g}, another class for {against.other_class} of {n}{why}"
    )


def host_sentences(result: CheckResult) -> list[str]:
    """One line about each file on each host: how far it is from here."""
    return [
        host_sentence(f"{item.name} on {host.name}", against, result.n)
        for host in result.hosts
        for item, against in zip(host.result.artefacts, host.against_here, strict=True)
    ]


def as_junit(result: CheckResult) -> str:
    """JUnit XML: a suite per artefact and host, a case per gate; a last suite of skipped ones for what was not checked.

    An undecided gate fails or is skipped, as the settings say.
    """
    junit = require("junit_xml")
    suites = []
    for name, artefact in judged_artefacts(result):
        cases = []
        for gate in artefact.gates:
            case = junit.TestCase(gate.name, classname=f"tledge.check.{visible(name)}")
            sentence = visible(gate_sentence(name, gate))
            if gate.verdict == "fail" or (gate.verdict == "undecided" and result.settings.on_undecided == "fail"):
                case.add_failure_info(
                    message=sentence, output=visible(artefact.reason) or None, failure_type=gate.verdict
                )
            elif gate.verdict == "undecided":
                case.add_skipped_info(message=sentence)
            case.stdout = sentence
            cases.append(case)
        properties = {
            "sha256": artefact.sha256,
            "size_bytes": str(artefact.size_bytes),
            "images": str(result.n),
            "data_fingerprint": result.images.fingerprint,
        }
        suites.append(junit.TestSuite(f"tledge check: {visible(name)}", cases, properties=properties))
    if left_out := [visible(sentence) for sentence in unchecked(result)]:
        cases = [
            junit.TestCase(sentence.partition(":")[0], classname="tledge.check.unchecked") for sentence in left_out
        ]
        for case, sentence in zip(cases, left_out, strict=True):
            case.add_skipped_info(message=sentence)
        suites.append(junit.TestSuite("tledge check: not checked", cases))
    return str(junit.to_xml_report_string(suites))


def as_annotations(result: CheckResult) -> list[str]:
    """Workflow commands of GitHub Actions: an error per failed gate, a notice per gain.

    An undecided gate is an error or a warning, as the settings say; what was not checked is a warning.
    """
    lines = [_command("warning", "tledge check", f"not checked: {sentence}") for sentence in unchecked(result)]
    for name, artefact in judged_artefacts(result):
        for gate in artefact.gates:
            if gate.verdict != "pass":
                counts = gate.verdict == "fail" or result.settings.on_undecided == "fail"
                reason = f" — {artefact.reason}" if artefact.reason else ""
                message = f"{gate.verdict}: {gate_sentence(name, gate)}{reason}"
                lines.append(_command("error" if counts else "warning", "tledge check", message))
        if artefact.change is not None and artefact.change.improved:
            gained = -artefact.change.drop.value
            lines.append(_command("notice", "tledge check", f"{name}: {gained:+.3f} since the baseline"))
    return lines


def _command(kind: str, title: str, message: str) -> str:
    return f"::{kind} title={workflow_property(title)}::{workflow_message(message)}"
