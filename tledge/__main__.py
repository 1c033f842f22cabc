"""The command line as a process: `tledge` and `python -m tledge`.

Nothing is imported before an interrupt is provided for: loading the command line takes a moment, in which Ctrl-C would
end in a traceback.
"""

import atexit
import os
import signal

_CODE = {signal.SIGINT: 130, signal.SIGTERM: 143}
# There is nothing to sweep up before a command has begun. Who had interrupts ignored (`nohup`) keeps that.
_BEFORE = (signal.default_int_handler, signal.SIG_DFL)


def _leave_at_once() -> None:
    for number, code in _CODE.items():
        if signal.getsignal(number) in _BEFORE:
            signal.signal(number, lambda *_, code=code: os._exit(code))


def _ignore() -> None:
    for number in _CODE:
        signal.signal(number, signal.SIG_IGN)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    from tledge.cli import main as run
    from tledge.cli import open_streams
    from tledge.core.temporary import gather

    os.umask(os.umask(0o077) & 0o077)  # whoever writes a file reads it again
    open_streams()  # before a lock is taken for a stream that was closed
    gather()
    run()


_leave_at_once()
# Called last, since first in. While Python takes itself apart it has no handlers left, and a signal would kill what has
# done its work.
atexit.register(_ignore)
if __name__ == "__main__":
    main()
