"""Bench on another machine: over a real sshd on this one, whole or not at all, and nothing left behind."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import tledge
from tests.conftest import run_cli
from tledge.benchmark import bench as bench_stage
from tledge.cli.bench import command
from tledge.conversion.recipe import DEFAULT_RECIPES, recipe_folder
from tledge.core.errors import RemoteError, SettingsError
from tledge.core.records import plain
from tledge.deployment import kit_bench as remote_bench
from tledge.deployment.host_bench import measure_on_hosts
from tledge.deployment.hosts.host import Access
from tledge.deployment.hosts.ssh import SshHost
from tledge.deployment.kit_bench import Probe, measure_kit, probe, require_ready
from tledge.deployment.targets import load_target
from tledge.runs.bench_json import replaced_bench
from tledge.runs.rundir import open_run

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
# The shell's start-up files may put another python3 before the one that has numpy.
QUICK: dict[str, Any] = {"rounds": 2, "samples": 2, "warmup": 1, "threads": 1, "remote_python": sys.executable}
QUICK_OPTIONS = [part for name, value in QUICK.items() for part in (f"--{name.replace('_', '-')}", str(value))]

pytestmark = pytest.mark.skipif(
    not (Path(SSHD).is_file() and shutil.which("ssh")), reason="needs ssh and sshd (Debian: openssh-server)"
)


@dataclass(frozen=True)
class Server:
    """An sshd of this user's on the loopback, and a client's configuration that knows its key."""

    url: str
    port: int
    config: Path
    folder: Path
    process: subprocess.Popen[bytes]

    def host(self) -> SshHost:
        return SshHost.reach(self.url, Access(ssh_config=self.config, remote_python=sys.executable))

    def left(self) -> list[str]:
        """What is in the folder for temporary files there."""
        return sorted(path.name for path in self.folder.iterdir())


def free_port() -> int:
    with socket.socket() as probed:
        probed.bind(("127.0.0.1", 0))
        return int(probed.getsockname()[1])


def make_key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder, port, temporary = tmp_path / "ssh", free_port(), tmp_path / "there, temporary"
    folder.mkdir()
    temporary.mkdir()
    host_key, user_key = make_key(folder / "host"), make_key(folder / "user")
    (folder / "authorized_keys").write_text(user_key)
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / "noise.sh").write_text("unset BASH_ENV; echo 'Welcome to this board!'\n")  # as many do
    settings = {
        "ListenAddress": "127.0.0.1",
        "Port": port,
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "yes",
        "SetEnv": f'"TMPDIR={temporary}" BASH_ENV={folder / "noise.sh"}',
    }
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    (folder / "config").write_text(
        f"Host *\nIdentityFile {folder / 'user'}\nIdentitiesOnly yes\nIdentityAgent none\n"
        f"UserKnownHostsFile {folder / 'known_hosts'}\nGlobalKnownHostsFile none\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # Debian's sshd insists on it as root
    log = (folder / "log").open("wb")
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        deadline = time.monotonic() + 20
        while "listening" not in (said := (folder / "log").read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"sshd does not start here: {said.strip()[-200:]}")
            time.sleep(0.05)
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}"
        yield Server(url, port, folder / "config", temporary, process)
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        for child in family:
            if child.is_running():
                child.kill()
        process.wait()
        log.close()


def refused(server: Server, run: Path, says: str, **options: Any) -> None:
    before = (run / "bench.json").read_bytes() if (run / "bench.json").is_file() else None
    with pytest.raises(RemoteError, match=says) as caught:
        tledge.bench_on(run, server.url, ssh_config=server.config, **{**QUICK, **options})
    assert "\n" not in str(caught.value)
    assert server.left() == []
    assert ((run / "bench.json").read_bytes() if (run / "bench.json").is_file() else None) == before


def test_the_whole_way_twice_and_beside_this_machine(
    run_copy: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_cli("bench", run_copy, "--on", server.url, "--ssh-config", server.config, *QUICK_OPTIONS)
    assert done.returncode == 0, done.stderr
    assert "MB sent" in done.stdout
    content = json.loads((run_copy / "bench.json").read_text())
    assert (content["results"], content["environment"]) == ([], None)
    entry = content["hosts"][0]
    assert entry["on"] == server.url
    assert {item["name"] for item in entry["results"]} == set(DEFAULT_RECIPES)
    assert {item["name"] for item in entry["verified"]} == set(DEFAULT_RECIPES)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (run_copy / "export").iterdir()}
    assert {item["sha256"] for item in entry["results"]} <= set(digests.values())
    assert {item["n"] for item in entry["results"]} == {4}
    assert entry["environment"]["machine"]["cores"] >= 1
    assert "tledge" not in entry["environment"]["versions"]
    assert entry["settings"]["threads"] == [1]
    assert server.left() == []
    assert "## Latency here and on other machines" in tledge.report(run_copy).run.report.read_text()

    again = tledge.bench_on(run_copy, server.url, ssh_config=server.config, **QUICK)
    kit = tledge.kit(run_copy, tmp_path / "kit.zip")
    assert [measured.sent_bytes for measured in again.hosts] == [kit.size_bytes]
    assert again.hosts[0].entry.settings.kit_sha256 == kit.sha256
    entries = json.loads((run_copy / "bench.json").read_text())["hosts"]
    assert len(entries) == 1
    assert entries[0] == plain(again.hosts[0].entry)
    assert entries[0]["results"] != entry["results"]

    monkeypatch.setattr(bench_stage, "installed", lambda package: False)  # TensorFlow is slow to start
    tledge.bench(run_copy, rounds=1, samples=1, threads=1)
    content = json.loads((run_copy / "bench.json").read_text())
    assert content["hosts"] == entries
    assert {item["name"] for item in content["results"]} == set(DEFAULT_RECIPES)
    shown = tledge.report(run_copy)
    assert shown.hosts is not None
    assert shown.hosts.header == ("artefact", "here, 1 threads", f"{server.url[6:]}, 1 threads")
    assert len(shown.hosts.rows) == len(DEFAULT_RECIPES)
    assert all("–" not in row for row in shown.hosts.rows)


def test_nobody_there(finished_run: Path, server: Server) -> None:
    dead = f"ssh://{getpass.getuser()}@127.0.0.1:{free_port()}"
    done = run_cli("bench", finished_run, "--on", dead, "--ssh-config", server.config)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "asking the hosts" not in line]
    assert len(lines) == 1, done.stderr
    assert "to answer, but" in lines[0]
    assert "refused" in lines[0]
    assert not (finished_run / "bench.json").exists()
    with pytest.raises(RemoteError, match="to answer, but"):  # one of two: neither is measured
        tledge.bench_on(finished_run, [server.url, dead], ssh_config=server.config, **QUICK)
    assert not (finished_run / "bench.json").exists()


def test_an_unknown_or_changed_host_key_is_refused(finished_run: Path, server: Server) -> None:
    known = server.config.parent / "known_hosts"
    known.write_text("")
    refused(server, finished_run, "host key of .* not among the known hosts")
    known.write_text(f"[127.0.0.1]:{server.port} {make_key(server.config.parent / 'other')}")
    refused(server, finished_run, "host key of .* another one is known")


def test_a_wrong_key_is_refused(finished_run: Path, server: Server) -> None:
    (server.config.parent / "authorized_keys").write_text(make_key(server.config.parent / "somebody"))
    refused(server, finished_run, "log in on .* with a key, but it was refused .*Permission denied")


def test_what_the_machine_lacks_is_said(finished_run: Path, server: Server, tmp_path: Path) -> None:
    refused(server, finished_run, "there is no such command", remote_python="nowhere/python3")
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    refused(
        server,
        finished_run,
        "expected numpy and ai-edge-litert for .* No module",
        remote_python=str(bare / "bin/python"),
    )
    old = tmp_path / "old"
    old.write_text(
        f'#!/bin/sh\ncode="import sys; sys.version_info=(3,8,1); $2"; shift 2\nexec {sys.executable} -c "$code" "$@"\n'
    )
    old.chmod(0o755)
    refused(server, finished_run, r"3\.10 or later .* is Python 3\.8\.1", remote_python=str(old))
    small = tmp_path / "small"
    small.write_text(f'#!/bin/sh\nulimit -f 100\nexec {sys.executable} "$@"\n')
    small.chmod(0o755)
    refused(server, finished_run, "the system refused: File too large", remote_python=str(small))
    text = (recipe_folder() / "targets" / "linux-x86-avx2.toml").read_text().replace('"x86_64"', '"riscv64"')
    (tmp_path / "riscv.toml").write_text(text)
    refused(server, finished_run, "expected riscv64 on .* for riscv", target=str(tmp_path / "riscv.toml"))


def test_what_is_asked_of_a_machine(server: Server) -> None:
    host = server.host()
    able = Probe("3.11.2", "aarch64", 64, 4, "/tmp", 10**9, {})
    require_ready(host, able, ("litert", "onnxruntime"), load_target("raspberry-pi-5"), 10**6)
    require_ready(host, replace(able, problems={"litert": "No module"}), ("litert", "onnxruntime"), None, 0)
    with pytest.raises(RemoteError, match="MB of free space in /tmp on"):
        require_ready(host, replace(able, free_bytes=10**6), ("litert",), None, 10**6)
    with pytest.raises(RemoteError, match="ready packages"):
        require_ready(
            host, replace(able, architecture="armv7l", problems={"litert": "No module"}), ("litert",), None, 0
        )
    with pytest.raises(RemoteError, match=r"aarch64 on .* but it is x86_64"):
        require_ready(host, replace(able, architecture="x86_64"), ("litert",), load_target("raspberry-pi-4"), 0)


def test_a_kit_that_arrives_damaged_is_not_measured(finished_run: Path, server: Server, tmp_path: Path) -> None:
    kit = tmp_path / "kit.zip"
    tledge.kit(finished_run, kit)
    with zipfile.ZipFile(kit) as whole, zipfile.ZipFile(tmp_path / "changed.zip", "w") as changed:
        for name in whole.namelist():
            changed.writestr(name, whole.read(name) if name != "labels.txt" else b"other\n")
    told = measure_kit(server.host(), tmp_path / "changed.zip", ["--rounds", "1"], 60.0)
    assert told["code"] == 1
    assert "expected labels.txt as kit.json describes it" in told["stderr"]
    kit.write_bytes(kit.read_bytes()[:-100])
    with pytest.raises(RemoteError, match="zip file"):
        measure_kit(server.host(), kit, [], 60.0)
    assert server.left() == []


def processes_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.cwd():
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until(happens: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    "end", ["kill", *(pytest.param(end, marks=pytest.mark.slow) for end in ("interrupt", "dropped connection"))]
)
def test_whatever_ends_it_nothing_is_left_there(run_copy: Path, server: Server, end: str) -> None:
    options = [*QUICK_OPTIONS, "--rounds", "100000", "--on", server.url, "--ssh-config", str(server.config)]
    # Where the tests run in the background of a shell, the signal is ignored, and children inherit that.
    tool = ["env", "--default-signal=INT", sys.executable, "-m", "tledge", "bench", str(run_copy), *options]
    client = subprocess.Popen(tool, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: len(processes_in(server.folder)) > 2, 120)  # its bench and the first workers
        if end == "dropped connection":
            for child in psutil.Process(server.process.pid).children():  # sshd's side of the connection
                child.kill()
        else:
            client.send_signal(signal.SIGKILL if end == "kill" else signal.SIGINT)
        _, said = client.communicate(timeout=60)
    finally:
        client.kill()
    assert client.returncode == {"kill": -9, "interrupt": 130, "dropped connection": 2}[end], said
    wait_until(lambda: not server.left() and not processes_in(server.folder))
    assert not (run_copy / "bench.json").exists()


def test_a_goal_is_met_on_the_machine_that_it_is_for(run_copy: Path, server: Server, tmp_path: Path) -> None:
    there = ("--on", server.url, "--ssh-config", server.config, "--remote-python", sys.executable, "--threads", "1")
    out = tmp_path / "small"
    done = run_cli("optimize", run_copy, "--goal", "p50 < 100 s, drop <= 0.6", "--epochs", "0", *there, "--out", out)
    assert done.returncode == 0, done.stderr
    assert server.url in done.stdout
    content = json.loads((out / "search.json").read_text())
    assert content["latency_conditions"]["on"] == server.url
    chosen = next(
        file
        for candidate in content["candidates"]
        for file in candidate["files"]
        if (file["candidate"], file["recipe"]) == (content["chosen"]["candidate"], content["chosen"]["recipe"])
    )
    assert chosen["own_latency"]["speedup"] is None
    entry = json.loads((out / "bench.json").read_text())["hosts"][0]
    assert entry["on"] == server.url
    measured = {item["sha256"]: item["latency_ms"]["p50"] for item in entry["results"]}
    assert measured[chosen["sha256"]] == chosen["own_latency"]["p50_ms"]
    assert {item["threads"] for item in entry["results"]} == {1}


@pytest.mark.parametrize(
    ("goal", "on", "says"),
    [
        ("speedup > 2", "ssh://127.0.0.1:1", "expected p50 or p90 in a goal with --on"),
        ("p50 < 1 ms", "ssh://127.0.0.1:1", "127.0.0.1"),
        ("p50 < 1 ms", "ftp://board", "ssh://"),
    ],
)
def test_a_goal_elsewhere_is_refused_before_slow_work(
    goal: str, on: str, says: str, finished_run: Path, tmp_path: Path
) -> None:
    done = run_cli("optimize", finished_run, "--goal", goal, "--on", on, "--out", tmp_path / "small")
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.glob("*small*")) == []


def test_past_the_time_limit_nothing_is_written(run_copy: Path, server: Server) -> None:
    refused(server, run_copy, "to measure within 2 s, but it did not", rounds=100_000, time_limit=2.0)
    wait_until(lambda: not processes_in(server.folder))


def test_what_comes_back_is_looked_at(run_copy: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other files than those sent are refused; a broken limit is kept and exit 1."""
    honest, answers = remote_bench.measure_kit, []

    def swapped(*arguments: Any) -> Any:
        answers.append(told := honest(*arguments))
        digest = json.loads(told["stdout"])["results"][0]["sha256"]
        return {**told, "stdout": told["stdout"].replace(digest, "0" * 64)}

    monkeypatch.setattr(remote_bench, "measure_kit", swapped)
    refused(server, run_copy, "to measure the files that were sent")

    too_much = {**json.loads(answers[0]["stdout"]), "over_limits": ["expected at most 1 MB of memory, but …"]}
    told = {**answers[0], "code": 1, "stdout": json.dumps(too_much)}
    monkeypatch.setattr(remote_bench, "measure_kit", lambda *_: told)
    monkeypatch.setattr(bench_stage, "installed", lambda package: False)
    options = ["--on", server.url, "--ssh-config", str(server.config), "--also-here", *QUICK_OPTIONS]
    assert command.main([str(run_copy), *options], standalone_mode=False) == 1
    content = json.loads((run_copy / "bench.json").read_text())
    assert len(content["results"]) == len(DEFAULT_RECIPES)
    assert content["hosts"][0]["over_limits"] == too_much["over_limits"]


def test_all_that_passes_the_remote_shell_is_quoted(server: Server, tmp_path: Path) -> None:
    strange = tmp_path / 'it\'s $(touch gone) `touch gone`; "a" *'
    strange.symlink_to(sys.executable)
    host = SshHost.reach(server.url, Access(ssh_config=server.config, remote_python=str(strange)))
    assert shlex.split(host.command(["a b"])[-1])[::3] == [str(strange), "a b"]
    assert probe(host).python == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize(
    "url",
    ["pi@board", "ssh://", "ssh://-oProxyCommand=x", "ssh://-l@board", "ssh://pi:secret@board", "ssh://a b",
     "ssh://board:0", "ssh://board:65536", "ssh://board/folder", "http://board", "ssh://pi@board;reboot"],
)  # fmt: skip
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(SettingsError, match="expected --on as ssh://"):
        SshHost.reach(url, Access())


def test_addresses() -> None:
    host = SshHost.reach("ssh://pi@[fe80::1]:2222/", Access())
    assert (host.on, host.user, host.host, host.port) == ("ssh://pi@[fe80::1]:2222", "pi", "[fe80::1]", 2222)
    built = host.command([])
    assert built[-2] == "fe80::1"
    assert "BatchMode=yes" in built
    assert not any("StrictHostKeyChecking" in part for part in built)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--target", "android"), "expected --target together with --on"),
        (("--also-here",), "expected --also-here together with --on"),
        (("--on", "ssh://a", "--batch", "2"), "but got --batch 2"),
        (("--on", "ssh://a", "--artefact", "x"), "but got --artefact"),
        (("--on", "ssh://a", "--rounds", "0"), "expected --rounds above 0"),
        (("--on", "ssh://a", "--time-limit", "0"), "expected --time-limit in seconds above 0"),
        (("--on", "ssh://a", "--ssh-config", "nowhere"), "expected --ssh-config as a file"),
        (("--on", "ssh://a", "--on", "ssh://a/"), "expected each host once"),
    ],
)
def test_options_that_make_no_sense(options: tuple[str, ...], says: str, finished_run: Path) -> None:
    with pytest.raises(SettingsError, match=says):
        command.main([str(finished_run), *options], standalone_mode=False)


def test_a_machine_twice_or_none_is_refused(finished_run: Path) -> None:
    with pytest.raises(SettingsError, match="none"):
        measure_on_hosts(finished_run, [])


def test_a_broken_bench_json_is_replaced_by_the_next_bench(run_copy: Path) -> None:
    (run_copy / "bench.json").write_text("{")
    assert replaced_bench(open_run(run_copy)).hosts == ()
