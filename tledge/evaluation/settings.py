"""What a check holds artefacts against, settled before anything slow begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tledge.core.errors import SettingsError
from tledge.core.settings import Settings, option, option_of
from tledge.evaluation.gates import GATES, parse_drop, parse_limits
from tledge.evaluation.gates.gate import Limits, OnUndecided
from tledge.runtimes.providers import ProviderSettings

DEFAULT_LIMITS: Limits = {"max_drop": 0.02}


@dataclass(frozen=True)
class CheckSettings(Settings):
    """What to hold artefacts against.

    `gates`, limits by names new or old and kept by those of `Gate.name`, and `max_drop`, short for the gate of this
    name, go before those of a recipe, these before the default (`max_drop` 0.02). `on_undecided` says what a gate
    counts as that the images cannot decide. `baseline` is a file of `tledge baseline save`, None for no comparison with
    an earlier release; with one, `max_baseline_drop` is `max_drop` unless it is given; without one, a recipe's has no
    say. `unlabelled` is a folder of images without labels, which bound the drop by the share of changed answers and
    are what `max_disagreement` is about; without one, a recipe's has no say either. `resize_robustness` asks how models
    answer where an app resizes in another way, and so does a limit of `max_resize_drop`. `provider` computes the
    artefacts inside their runtimes, None for the runtimes' own choice; it never computes the reference.

    Raises:
        SettingsError: an unknown gate, one given twice, or a limit out of range.
    """

    gates: Limits | None = option(
        None,
        help="Limits for all files, such as 'drop < 0.02, size < 2 MB'; repeat for more. On: "
        f"{', '.join(kind.metric.name for kind in GATES.values())}.",
        flag="--gate",
        metavar="LIMITS",
        parse=parse_limits,
        multiple=True,
    )
    max_drop: float | None = option(
        None, help="Short for --gate 'drop <= …'; default: the recipe's, or 0.02.", parse=parse_drop
    )
    on_undecided: OnUndecided = option("fail", help="What a gate counts as that the number of images cannot decide.")
    baseline: Path | None = option(
        None,
        help="Compare image by image with the release that `tledge baseline save` kept.",
        metavar="FILE",
    )
    unlabelled: Path | None = option(
        None,
        help="Images without labels, in folders of any depth: where few answers change, little can be lost.",
        metavar="DIR",
    )

    resize_robustness: bool = option(
        False,
        help="Also resize the images as apps do: bilinear without antialiasing, area, bicubic, nearest, centre crop, "
        "letterbox. A limit on resize_drop asks for it too.",
    )
    provider: str | None = option_of(ProviderSettings, "provider")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_drop is not None:
            parse_limits({"max_drop": self.max_drop}, "--max-drop")
        if self.gates is not None:
            object.__setattr__(self, "gates", parse_limits(self.gates))
        if self.max_drop is not None and "max_drop" in (self.gates or {}):
            raise SettingsError("expected each gate once in --gate, but got drop again; leave one out")

    @property
    def limits(self) -> Limits:
        """The limits that were given, by the gate's name in JSON."""
        return {**(self.gates or {}), **({} if self.max_drop is None else {"max_drop": self.max_drop})}

    def require_evidence(self) -> None:
        """Refuse a limit on what can never be had; for commands to call before slow work.

        Raises:
            SettingsError: `max_baseline_drop` is given without a baseline, `max_disagreement` without `unlabelled`.
        """
        if "max_baseline_drop" in self.limits and self.baseline is None:
            raise SettingsError(
                "expected a baseline for max_baseline_drop, but got none; pass one to `tledge check` with --baseline "
                "FILE, or leave the gate out"
            )
        if "max_disagreement" in self.limits and self.unlabelled is None:
            raise SettingsError(
                "expected images without labels for max_disagreement, but got none; pass them to `tledge check` with "
                "--unlabelled DIR, or leave the gate out"
            )

    def limits_of(self, recipe: Limits) -> dict[str, float]:
        """Every limit for an artefact whose recipe has limits of its own."""
        merged = {**DEFAULT_LIMITS, **recipe, **self.limits}
        if self.baseline is None:
            merged.pop("max_baseline_drop", None)
        else:
            merged.setdefault("max_baseline_drop", merged["max_drop"])
        if self.unlabelled is None:
            merged.pop("max_disagreement", None)
        return merged


STRICT: CheckSettings = CheckSettings()
"""Default limits, and undecided gates fail."""
TOLERANT: CheckSettings = CheckSettings(on_undecided="pass")
"""For a first run on few images, which shall not end in a failure that only says so."""
