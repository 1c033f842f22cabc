"""What another machine is to us, however it is reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

# One line in double quotes only, for every login shell there may be, and for old Pythons, so that they can say so.
BOOTSTRAP = (
    "import sys;v=sys.version_info;sys.path[:]=[p for p in sys.path if p];"
    '(sys.stdout.write("Python %d.%d.%d\\n" % v[:3]),sys.exit(90)) if v<(3,10) else '
    'exec(compile(sys.stdin.buffer.read(int(sys.argv[1])), "tledge_remote", "exec"))'
)


class Machine(Protocol):
    """Another machine that runs commands for us.

    `on` is its address as it is kept in `bench.json`, `name` how messages name it, `python` the interpreter there,
    `cache` the folder there that holds `tledge`. `by_hand` is a command to try, `without_python` what to do where there
    is no Python.
    """

    @property
    def on(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def python(self) -> str: ...  # noqa: D102
    @property
    def cache(self) -> str: ...  # noqa: D102
    @property
    def by_hand(self) -> str: ...  # noqa: D102
    @property
    def without_python(self) -> str: ...  # noqa: D102

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The local command that runs Python there on `BOOTSTRAP` and its arguments."""
        ...

    def refusal(self, code: int, lines: Sequence[str]) -> str | None:
        """What to say where the way there failed, from an exit code and stderr; None where the other side did."""
        ...
