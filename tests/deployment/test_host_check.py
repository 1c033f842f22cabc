"""A check answered on another machine: over a real sshd on this one, judged as here, whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import tledge
from tests.conftest import run_cli, write_digits
from tests.deployment.test_hosts import SSHD, Server, processes_in, server, wait_until
from tledge.conversion.artefacts import RunArtefact
from tledge.conversion.recipe import DEFAULT_RECIPES
from tledge.core.environment import machine, versions
from tledge.core.errors import TledgeError
from tledge.deployment import answering
from tledge.deployment.other_kernels import explain
from tledge.runs.bench_json import HostMachine
from tledge.runs.check_json import AnsweringEnvironment

__all__ = ["server"]  # a fixture

pytestmark = pytest.mark.skipif(
    not (Path(SSHD).is_file() and shutil.which("ssh")), reason="needs ssh and sshd (Debian: openssh-server)"
)


def artefact(run: Path, name: str) -> Path:
    return next(path for path in (run / "export").iterdir() if path.stem == name and path.suffix != ".json")


def python_there(folder: Path, line: str) -> str:
    """An interpreter for the other side that begins with a line of shell."""
    path = folder / "python-there"
    path.write_text(f'#!/bin/sh\n{line}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_the_whole_way(run_copy: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "_CHUNK_BYTES", 5 * 3 * 32 * 32)  # several messages of images
    junit, page = tmp_path / "check.xml", tmp_path / "check.md"
    there = ("--on", server.url, "--ssh-config", server.config, "--remote-python", sys.executable)
    written = ("--junit", junit, "--markdown", page, "--on-undecided", "pass")
    done = run_cli("check", run_copy, *there, *written)
    assert done.returncode == 0, done.stderr
    assert server.left() == []
    name = server.url.removeprefix("ssh://")
    assert f"tflite-int8 on {name}" in done.stdout
    assert f"tflite-int8 on {name}: answers at most" in done.stdout

    content = json.loads((run_copy / "check.json").read_text())
    (host,) = content["hosts"]
    assert (host["on"], host["verdict"], host["passed"]) == (server.url, content["verdict"], True)
    assert host["environment"]["machine"]["cpu_flags"]
    assert host["environment"]["versions"]["ai-edge-litert"] == versions()["ai-edge-litert"]
    assert {item["name"] for item in host["artefacts"]} == set(DEFAULT_RECIPES)
    here = {item["name"]: item for item in content["artefacts"]}
    for item in host["artefacts"]:
        local, against = here[item["name"]], item["against_here"]
        assert {gate["name"] for gate in item["gates"]} == {gate["name"] for gate in local["gates"]}
        assert item["n"] == content["n"]
        assert item["accuracy"] == pytest.approx(local["accuracy"], abs=1e-9)
        assert against["max_probability_difference"] <= 1e-3, "the same kernels, one image at a time"
        assert against["mean_probability_difference"] <= against["max_probability_difference"]
        assert (against["other_class"], against["reason"]) == (0, "")
    header = (run_copy / "predictions.csv").read_text().splitlines()[0].split(",")
    models = ["reference", *here, *(f"{one} on {name}" for one in here)]
    assert header[2:] == [*models, *(f"p({model})" for model in models)]
    suites = [suite.attrib["name"] for suite in ET.parse(junit).getroot().findall("testsuite")]
    assert suites == [f"tledge check: {one} on {name}" for one in here]
    assert f"tflite-int8 on {name}" in page.read_text()
    assert "Against the answers here" in page.read_text()
    assert "## Accuracy on other machines" in tledge.report(run_copy).run.report.read_text()
    tledge.save_baseline(run_copy, tmp_path / "baseline.json")

    # Against the baseline, with images without labels; a check here then takes the place of all of it.
    others = write_digits(tmp_path / "others", 24)
    for path in others.rglob("*.png"):
        if int(path.stem) < 20:  # the run's own
            path.unlink()
    only = [artefact(run_copy, "tflite-int8")]
    options: dict[str, Any] = {"ssh_config": server.config, "remote_python": sys.executable}
    options |= {"baseline": tmp_path / "baseline.json", "unlabelled": others, "gates": "resize_drop < 1"}
    result = tledge.check(run_copy, artefacts=only, on=server.url, **options)
    gates = {gate.name: gate.verdict for gate in result.hosts[0].result.artefacts[0].gates}
    assert (gates["max_baseline_drop"], gates["max_resize_drop"]) == ("pass", "pass")
    ways_there, ways_here = result.hosts[0].result.artefacts[0].resized, result.artefacts[0].resized
    assert len(ways_there) == 6
    assert ways_there == ways_here, "the same kernels"
    assert result.hosts[0].result.reference_resized == result.reference_resized
    there, here_again = result.hosts[0].result.artefacts[0].disagreement, result.artefacts[0].disagreement
    assert there is not None
    assert there == here_again
    assert there.share.n == 12
    tledge.check(run_copy, artefacts=only)
    assert "hosts" not in json.loads((run_copy / "check.json").read_text())


def refused(server: Server, run: Path, says: str, **options: Any) -> None:
    before = (run / "check.json").read_bytes() if (run / "check.json").is_file() else None
    chosen = {"on": server.url, "ssh_config": server.config, "remote_python": sys.executable, **options}
    with pytest.raises(TledgeError, match=says) as caught:
        tledge.check(run, **chosen)
    assert "\n" not in str(caught.value)
    wait_until(lambda: server.left() == [] and not processes_in(server.folder))
    assert ((run / "check.json").read_bytes() if (run / "check.json").is_file() else None) == before


def test_what_a_host_lacks_is_said(run_copy: Path, server: Server, tmp_path: Path) -> None:
    only = [artefact(run_copy, "tflite-int8")]
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "onnxruntime.py").write_text("raise ImportError('libgomp is missing')\n")
    without = python_there(tmp_path, f"export PYTHONPATH={modules}")
    refused(
        server,
        run_copy,
        "expected onnxruntime for .* to answer with onnx-float32.onnx .* libgomp is missing",
        remote_python=without,
    )
    options: dict[str, Any] = {"ssh_config": server.config, "remote_python": without}
    result = tledge.check(run_copy, artefacts=only, on=server.url, **options)
    assert [item.name for item in result.hosts[0].result.artefacts] == ["tflite-int8"]
    refused(server, run_copy, "no such command", remote_python="nowhere/python3", artefacts=only)
    small = python_there(tmp_path, "ulimit -f 20")
    refused(server, run_copy, "the system refused: File too large", remote_python=small, artefacts=only)
    refused(server, run_copy, "to answer within 0.01 s, but it did not", time_limit=0.01, artefacts=only)


@pytest.mark.parametrize("end", ["killed", "dropped"])
def test_what_ends_half_way_leaves_nothing(
    run_copy: Path, server: Server, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(answering, "_CHUNK_BYTES", 3 * 32 * 32)
    asked = threading.Event()

    def strike() -> None:
        asked.wait(60)
        if end == "dropped":
            for child in psutil.Process(server.process.pid).children():
                child.kill()
        else:
            for process in processes_in(server.folder):
                if "_answer" in process.cmdline():
                    process.send_signal(signal.SIGKILL)

    thread = threading.Thread(target=strike)
    thread.start()

    def watch(what: str, done: int, _total: int) -> None:
        if " on " in what and done >= 2:
            asked.set()
            thread.join(60)  # the next images come after it

    says = {"killed": "to answer on .* but it was ended by signal 9", "dropped": "to answer, but|an answer of"}[end]
    refused(server, run_copy, says, artefacts=[artefact(run_copy, "tflite-int8")], progress=watch)
    thread.join()


def test_a_file_that_does_not_run_there(run_copy: Path, server: Server, tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    # A runtime of another version, which knows an operator less.
    (modules / "sitecustomize.py").write_text(
        "import sys\n"
        "if '_answer' in sys.argv:\n"
        "    from ai_edge_litert.interpreter import Interpreter\n"
        "    def refuse(self): raise RuntimeError('Didn\\'t find op for builtin opcode CONV_2D version 6')\n"
        "    Interpreter.allocate_tensors = refuse\n"
    )
    other = python_there(tmp_path, f"export PYTHONPATH={modules}")
    refused(
        server,
        run_copy,
        "expected tflite-int8 to answer on .* tflite-int8.tflite fails: Didn't find op",
        remote_python=other,
        artefacts=[artefact(run_copy, "tflite-int8")],
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--on", "ftp://board"), "expected --on as ssh://user@host[:port]"),
        (("--on", "board"), "but got 'board'"),
        (("--on", "ssh://board", "--on", "ssh://board/"), "expected each host once"),
        (("--on", "ssh://board", "--gate", "latency_ratio < 1"), "measured beside Keras here"),
        (("--on", "ssh://board", "--time-limit", "0"), "expected --time-limit in seconds above 0"),
        (("--time-limit", "5"), "expected --time-limit together with --on"),
        (("--ssh-config", "x"), "expected --ssh-config together with --on"),
    ],
)
def test_options_that_make_no_sense(options: tuple[str, ...], says: str, finished_run: Path) -> None:
    done = run_cli("check", finished_run, *options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert says in done.stderr
    assert not (finished_run / "check.json").exists()


def test_why_answers_differ(tmp_path: Path) -> None:
    """By what is known of the kernels: 8-bit weights without VNNI, another version, half precision, another machine."""
    onnx = pytest.importorskip("onnx")

    def file(largest: int) -> Path:
        weights = onnx.numpy_helper.from_array(np.full((2, 2), largest, np.int8), "w")
        path = tmp_path / f"{largest}.onnx"
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [weights])), path)
        return path

    full, seven = (RunArtefact("x", file(largest), "", 1, "int8", {}) for largest in (127, 64))
    half = RunArtefact("x", Path("x.tflite"), "", 1, "float16", {})
    this = machine()
    same = HostMachine(
        board=None,
        cpu=this.cpu,
        cpu_flags=("avx2", "avx512_vnni"),
        architecture=this.architecture,
        cores=2,
        memory_gb=None,
        system="Linux",
    )

    def why(one: RunArtefact, flags: tuple[str, ...], largest: float = 0.5, **changed: Any) -> str:
        facts = {"cpu_flags": flags, **{name: value for name, value in changed.items() if name != "version"}}
        version = changed.get("version", versions()["onnxruntime"])
        known = {"onnxruntime": version, "ai-edge-litert": versions()["ai-edge-litert"]}
        runtime = "litert" if one is half else "onnxruntime"
        values = {name: getattr(same, name) for name in same.__struct_fields__} | facts
        return explain(
            one, runtime, runtime, AnsweringEnvironment(machine=HostMachine(**values), versions=known), largest
        )

    vnni = ("avx2", "avx512_vnni")
    assert why(full, ("avx2",), 0.05) == ""
    assert "the processor there has no VNNI" in why(full, ("avx2",), architecture="x86_64")
    assert "VNNI" not in why(seven, ("avx2",))
    assert "onnxruntime 1.15.0 there" in why(seven, vnni, version="1.15.0")
    assert "half precision" in why(half, ("asimd", "asimdhp"), architecture="aarch64")
    assert "kernels for riscv64 there" in why(seven, (), architecture="riscv64")
    assert "Cortex there" in why(seven, vnni, cpu="Cortex")
    assert "no known cause" in why(seven, vnni)


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("qemu-x86_64") and shutil.which("unshare") and os.getuid() == 0),
    reason="needs root and qemu-x86_64 (Debian: qemu-user)",
)
def test_sums_that_overflow_there_are_refused_there(server: Server, tmp_path: Path) -> None:
    """onnxruntime on a Haswell, emulated: AVX2 without VNNI. Weights of all 8 bits pass here and fail there."""
    if not {"avx512_vnni", "avx_vnni"} & set(machine().cpu_flags):
        pytest.skip("the machine here overflows itself")
    run = tmp_path / "run"
    digits = write_digits(tmp_path / "digits", 12, tuple(range(10)))
    tledge.train(digits, technique="feature-extraction", out=run, image_size=32, epochs=3)
    tledge.export(run, recipes=["onnx-int8-full-range", "onnx-int8"])
    modules = tmp_path / "modules"
    modules.mkdir()
    # Processes that it starts are emulated too. The processor's description is not: what it has no more is taken out.
    (modules / "sitecustomize.py").write_text(f"import sys\nsys.executable = {str(tmp_path / 'python-there')!r}\n")
    described = tmp_path / "cpuinfo"
    described.write_text(re.sub(r" avx512\w*| avx_vnni", "", Path("/proc/cpuinfo").read_text()))
    emulated = f"qemu-x86_64 -cpu Haswell-noTSX {sys.executable}"
    haswell = python_there(
        tmp_path,
        f"export PYTHONPATH={modules}\nexec unshare -m sh -c "
        f'\'mount --bind {described} /proc/cpuinfo && exec {emulated} "$@"\' sh "$@"',
    )
    gates = {"max_probability_difference": 0.1, "max_drop": 0.5}
    assert tledge.check(run, gates=gates, on_undecided="pass").passed
    options: dict[str, Any] = {"ssh_config": server.config, "remote_python": haswell, "on_undecided": "pass"}
    result = tledge.check(run, gates=gates, on=server.url, **options)
    assert not result.passed
    (host,) = result.hosts
    found = {item.name: (item, against) for item, against in zip(host.result.artefacts, host.against_here, strict=True)}
    for name, (item, against) in found.items():
        print(f"{name}: {item.verdict}, {item.reason}, {against}")
    full, seven = found["onnx-int8-full-range"], found["onnx-int8"]
    assert full[0].verdict == "fail"
    assert "the processor there has no VNNI" in full[0].reason == full[1].reason
    assert seven[0].verdict != "fail"
    assert seven[1].max_probability_difference <= 0.01
    assert seven[1].reason == ""
