"""Ctrl-C, and the end that a time limit asks for: exceptions, on whose way what is half-written is swept up."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

INTERRUPTED = "interrupted; nothing half-written was left"
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
_AGAIN_S = 0.5

_received: list[signal.Signals] = []


def provide() -> None:
    """Raise in the main thread where SIGTERM comes, and SIGINT unless it is ignored (`nohup`)."""
    for number in _CODES:
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def over() -> None:
    """End what `provide` began: nothing more is raised into what a process does last, and a signal ends it at once."""
    if _received and hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    for number, code in _CODES.items():
        if signal.getsignal(number) is _stop:
            signal.signal(number, lambda *_, code=code: os._exit(code))


def code_of_signal() -> int | None:
    """The exit code that says which signal came first, None while none did."""
    return _CODES[_received[0]] if _received else None


def behind(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was raised from or while they were handled."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _stop(number: int, _: object) -> NoReturn:
    _received.append(signal.Signals(number))
    stop = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(_CODES[signal.Signals(number)])
    # Native code that calls Python, and `__del__`, print what is raised in them and go on. Nobody needs to read that,
    # and it is raised again until it gets through; while something is swept up because of it, that is not disturbed.
    sys.excepthook = lambda *_: None
    sys.unraisablehook = lambda _: None
    if hasattr(signal, "setitimer"):

        def again(*_: object) -> None:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
            if stop not in behind(sys.exc_info()[1]):
                raise stop

        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
    raise stop
