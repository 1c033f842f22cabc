"""What `tledge doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "missing", "damaged"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `missing` and `damaged` mean that the job, or the run, needs something done."""

    name: str
    state: State
    detail: str
