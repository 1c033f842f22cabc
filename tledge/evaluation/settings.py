"""What a check holds artefacts against, settled before anything slow begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tledge.core.errors import SettingsError
from tledge.evaluation.gates import parse_limits
from tledge.evaluation.gates.gate import Limits, OnUndecided

DEFAULT_LIMITS: Limits = {"max_drop": 0.02}


@dataclass(frozen=True)
class CheckSettings:
    """What to hold artefacts against.

    `limits`, by names new or old and kept by those of `Gate.name`, go before those of a recipe, these before the
    default (`max_drop` 0.02). `on_undecided` says what a gate counts as that the images cannot decide. `baseline` is a
    file of `tledge baseline save`, None for no comparison with an earlier release; with one, `max_baseline_drop` is
    `max_drop` unless it is given; without one, a recipe's has no say.

    Raises:
        SettingsError: an unknown gate or a limit out of range.
    """

    limits: Limits = field(default_factory=dict)
    on_undecided: OnUndecided = "fail"
    baseline: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", parse_limits(self.limits))

    def require_baseline(self) -> None:
        """Refuse a limit on what can never be had; for commands to call before slow work.

        Raises:
            SettingsError: `max_baseline_drop` is given without a baseline.
        """
        if "max_baseline_drop" in self.limits and self.baseline is None:
            raise SettingsError(
                "expected a baseline for max_baseline_drop, but got none; pass one to `tledge check` with --baseline "
                "FILE, or leave the gate out"
            )

    def limits_of(self, recipe: Limits) -> dict[str, float]:
        """Every limit for an artefact whose recipe has limits of its own."""
        merged = {**DEFAULT_LIMITS, **recipe, **self.limits}
        if self.baseline is None:
            merged.pop("max_baseline_drop", None)
        else:
            merged.setdefault("max_baseline_drop", merged["max_drop"])
        return merged
