"""Who answers for a check: light enough for a command to import before it knows."""

from __future__ import annotations

from dataclasses import dataclass

from tledge.core.settings import Settings, option


@dataclass(frozen=True)
class HostCheckSettings(Settings):
    """Addresses of hosts, none for this machine; `time_limit` is how many seconds each host may take."""

    on: tuple[str, ...] = option(
        (),
        help="Have files answer there: ssh://user@host[:port], adb[:SERIAL], browser[+webgpu][:COMMAND], or micro for "
        "LiteRT Micro, the interpreter of microcontrollers, which takes int8 .tflite files; may be repeated.",
        metavar="HOST",
    )
    time_limit: float = option(
        3600.0,
        help="With --on: most for one machine.",
        above=0,
        below=10**6,
        noun="--time-limit in seconds",
        metavar="SECONDS",
    )


HERE = HostCheckSettings()
