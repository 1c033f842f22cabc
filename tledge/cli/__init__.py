"""The command line: `tledge COMMAND …`. Modules of commands are imported only when their command is called for."""

from __future__ import annotations

import codecs
import contextlib
import importlib
import io
import os
import sys
from typing import Any

import click

from tledge import __version__
from tledge.cli import interrupts
from tledge.core.errors import TledgeError, VerificationError

# Help lines stand here, so that `tledge --help` imports no command.
_COMMANDS = {
    "run": "Train, export, check, bench and report: the whole job.",
    "select": "Find out which pre-trained model and technique suit the data.",
    "train": "Train a reference model on a folder of images.",
    "adopt": "Make a run of a finished Keras classifier.",
    "weights": "List what there is to transfer from; add a trunk of your own.",
    "optimize": "Make a run smaller and faster: a new run.",
    "export": "Write a run's TFLite and ONNX files.",
    "targets": "List the kinds of device there are files for, or show one.",
    "kit": "Pack a run's files, test images and code for a device into one zip.",
    "sign": "Sign a run's files, or any, with the key of a release.",
    "verify": "Tell whether files are signed by a key; exit 1 if one is not.",
    "check": "Compare a run's files with the reference; exit 1 if one fails.",
    "baseline": "Keep a check as the release that later ones are compared with.",
    "diagnose": "Find out why a file answers differently from the model.",
    "bench": "Measure latency, load time and memory of a run's files, or of any.",
    "compare": "Show several runs side by side.",
    "report": "Show a run as one table and write its page, report.html.",
    "inspect": "Say what a model file or a run is.",
    "predict": "Classify images with a model file.",
    "doctor": "Look at what is installed and what this machine can do.",
    "demo": "Do the whole job on handwritten digits, offline.",
}


class _CarriedError(Exception):
    """Carries an error past click, which takes a closed pipe for exit code 1 and an end of file for an interrupt."""


class _LazyGroup(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (EOFError, BrokenPipeError) as error:
            raise _CarriedError from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"tledge.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tledge")
def group() -> None:
    """Fine-tune VGG16 on a folder of images, export it, and prove how accurate and how fast each file is.

    Exit codes: 0 done and every gate passed, 1 a gate failed, 2 bad input or usage, 3 an error of tledge itself,
    130 interrupted.
    """


def main() -> None:
    """Run the command line; errors become one line on stderr and an exit code."""
    interrupts.provide()
    open_streams()
    try:
        code = group.main(standalone_mode=False)
        sys.stdout.flush()
    except (click.exceptions.Abort, KeyboardInterrupt):
        _stop(interrupts.INTERRUPTED, 130)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "tledge"
        _stop(f"{error.format_message()} See `{command} --help`.", 2)
    except click.ClickException as error:
        _stop(error.format_message(), error.exit_code)
    except VerificationError as error:
        _stop(str(error), 1)
    except TledgeError as error:
        _stop(str(error), 2)
    except (_CarriedError, Exception) as error:  # noqa: BLE001 - whatever it is, 1 would say that a gate failed
        _stop_unforeseen(error.__cause__ if isinstance(error, _CarriedError) and error.__cause__ else error)
    finally:
        interrupts.over()
    sys.exit(code if isinstance(code, int) else 0)


def open_streams() -> None:
    """Have three streams that take any text, whatever the locale: work must not end in an error of its last line."""
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:  # closed by whoever started us (`>&-`)
        os.set_inheritable(free, True)
    os.close(free)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - open as long as the process
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            from tledge.core.escaping import encodable

            codecs.register_error("tledge", encodable)
            stream.reconfigure(errors="tledge")


def _stop_unforeseen(error: BaseException) -> None:
    if isinstance(error, BrokenPipeError):
        _stop("the program that reads the output ended before all of it was written; what was done is kept", 2)
    if isinstance(error, MemoryError):
        _stop("the system refused more memory; free some, or ask for less at a time", 2)
    if isinstance(error, OSError) and error.errno is not None:
        what = f" ({error.filename})" if error.filename else ""
        _stop(f"the system refused: {error.strerror or error}{what}; check permissions and free space", 2)
    # Imports hand it on as their own; what else a signal led to needs no report.
    if interrupts.code_of_signal() or any(isinstance(one, KeyboardInterrupt) for one in interrupts.behind(error)):
        _stop(interrupts.INTERRUPTED, 130)
    from tledge.cli.unexpected import told

    names = [word for word in sys.argv[1:2] if word in _COMMANDS]
    _stop(told(error, " ".join(["tledge", *names])), 3)


def _stop(message: str, code: int) -> None:
    if (stopped := interrupts.code_of_signal()) is not None:  # whatever came of it on the way
        message, code = interrupts.INTERRUPTED, stopped
    with contextlib.suppress(OSError):  # nobody reads stderr, or its disk is full: the code alone is left
        from tledge.reporting.terminal import say

        say(f"tledge: {' '.join(message.split())}", err=True)
    _leave_output()
    sys.exit(code)


def _leave_output() -> None:
    """What stdout still holds and cannot be written would fail once more at the end, with exit code 120."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
