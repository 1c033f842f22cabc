"""How the process ends where nobody foresaw it: never with 1, which is a failed gate, and never with a traceback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Runs `python -m tledge ARGUMENTS` with something happening on the way.
_START = """
import os, runpy, signal, sys
{before}
sys.argv = ["tledge", *sys.argv[1:]]
runpy.run_module("tledge", run_name="__main__")
"""
_AT_IMPORT = """
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            {event}
sys.meta_path.insert(0, Finder())
"""
_RAISING = """
import click, tledge.cli.inspect, tledge.reporting.inspection as place
from pathlib import Path
def broken(path):
    raise {error}
place.broken = broken
code = compile("def inspect(path): broken(path)", place.__file__, "exec")
exec(code, vars(place))
tledge.cli.inspect.command = click.command()(click.argument("file")(lambda file: place.inspect(Path(file))))
"""


def started(
    before: str, *arguments: object, cwd: Path, stdout: object = subprocess.PIPE, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _START.format(before=before), *map(str, arguments)],
        stdout=stdout,  # type: ignore[call-overload]
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **env},
        timeout=60,
        check=False,
    )


def test_an_unforeseen_error_ends_with_3_and_a_report(tmp_path: Path) -> None:
    private = tmp_path / "my holiday" / "secret cat.keras"
    error = f"KeyError({str(private)!r} + ' has no secret cat.keras in IMG_0815.jpg')"
    ended = started(_RAISING.format(error=error), "inspect", private, cwd=tmp_path)
    assert ended.returncode == 3, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert "`tledge inspect` was at inspect (tledge/reporting/inspection.py)" in line
    assert str(private) in line, "people may see their own paths"
    (report,) = tmp_path.glob("tledge-error-*.txt")
    assert str(report) in line
    content = report.read_text()
    assert "KeyError" in content
    assert "tledge: 0.1.0" in content
    assert re.search(r"numpy: \d", content)
    assert "tledge/reporting/inspection.py:" in content
    for word in ("holiday", "secret", "IMG_0815", str(tmp_path), str(Path.home()) + "/"):
        assert word not in content


def test_the_report_goes_where_it_can_be_written(tmp_path: Path) -> None:
    gone, temporary = tmp_path / "gone", tmp_path / "temporary"
    gone.mkdir()
    temporary.mkdir()
    before = f"os.rmdir({str(gone)!r})\n" + _RAISING.format(error="ZeroDivisionError()")
    ended = started(before, "inspect", "x.onnx", cwd=gone, TMPDIR=str(temporary))
    assert ended.returncode == 3, ended.stderr
    (report,) = temporary.glob("tledge-error-*.txt")
    assert str(report) in ended.stderr


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        ("EOFError('short')", 3, "EOFError: short"),
        ("OSError('no number')", 3, "OSError: no number"),
        ("MemoryError()", 2, "refused more memory"),
        ("OSError(28, 'No space left on device', '/x')", 2, "No space left on device (/x)"),
        ("ImportError() from KeyboardInterrupt()", 130, "interrupted"),
    ],
)
def test_code_by_kind_of_error(error: str, code: int, says: str, tmp_path: Path) -> None:
    ended = started(_RAISING.format(error=error), "inspect", "x.onnx", cwd=tmp_path)
    assert (ended.returncode, ended.stderr.count("\n")) == (code, 1), ended.stderr
    assert says in ended.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("module", ["tledge.cli", "click", "tledge.core.errors", "tledge.cli.inspect", "msgspec"])
def test_interrupted_while_it_starts(module: str, number: signal.Signals, code: int, tmp_path: Path) -> None:
    event = f"os.kill(os.getpid(), {int(number)})"
    # As from a terminal: what a script starts in the background ignores interrupts, the test suite included.
    before = "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    ended = started(before + _AT_IMPORT.format(module=module, event=event), "inspect", "x.onnx", cwd=tmp_path)
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "KeyboardInterrupt" not in ended.stderr
    assert not [*tmp_path.iterdir()]


# What `__del__` raises is printed and forgotten, as much native code does it with what it calls.
_SWALLOWED = """
from tledge.cli import group, interrupts
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
class Left:
    def __del__(self): os.kill(os.getpid(), {number}); time.sleep(0.01)
def main(**_):
    try:
        {where}
    finally:
        time.sleep(1.2)
        print("swept up")
group.main = main
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("where", ["Left(); time.sleep(30)", "os.kill(os.getpid(), {number}); time.sleep(30)"])
def test_an_interrupt_is_not_lost_and_disturbs_nothing_that_is_swept_up(
    where: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    script = _SWALLOWED.format(number=int(number), where=where.format(number=int(number)))
    begun = time.monotonic()
    ended = started(script, "targets", cwd=tmp_path)
    assert ended.returncode == code, ended.stderr
    assert time.monotonic() - begun < 20
    assert ended.stdout == "swept up\n"
    assert ended.stderr.count("\n") <= 1
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_a_signal_led_to_is_not_reported(number: signal.Signals, code: int, tmp_path: Path) -> None:
    where = f"Left(); os.kill(os.getpid(), {int(number)})\n    except BaseException:\n        raise LookupError('lost')"
    script = _SWALLOWED.format(number=int(number), where=where).replace("time.sleep(1.2)", "pass")
    ended = started(script, "targets", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert ended.returncode == code, ended.stderr
    assert not [*tmp_path.rglob("tledge-error-*")]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_when_all_is_done(number: signal.Signals, code: int, tmp_path: Path) -> None:
    event = f"__import__('atexit').register(os.kill, os.getpid(), {int(number)})"
    before = "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    before += _AT_IMPORT.format(module="tledge.core.errors", event=event)
    ended = started(before, "targets", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (code, "")
    assert "raspberry-pi-5" in ended.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_takes_itself_apart(number: signal.Signals, tmp_path: Path) -> None:
    before = f"""
signal.signal(signal.SIGINT, signal.default_int_handler)
class Last:
    def __del__(self, kill=os.kill, own=os.getpid()): kill(own, {int(number)})
last = Last()
"""
    ended = started(before, "targets", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "raspberry-pi-5" in ended.stdout


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    event = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + _AT_IMPORT.format(
        module="msgspec", event="os.kill(os.getpid(), signal.SIGINT)"
    )
    assert started(event, "inspect", "nothing.onnx", cwd=tmp_path).returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        ended = started("", "targets", cwd=tmp_path, stdout=full)
    assert ended.returncode == 2, ended.stderr
    assert "No space left" in ended.stderr
    reading, writing = os.pipe()
    os.close(reading)
    ended = started("", "targets", cwd=tmp_path, stdout=writing)
    os.close(writing)
    assert ended.returncode == 2
    assert "reads the output" in ended.stderr
    assert ended.stderr.count("\n") == 1
