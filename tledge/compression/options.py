"""From options, as the command line and Python calls take them, to the settings of each method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tledge.compression.methods.cluster import ClusterSettings
from tledge.compression.methods.prune import PruneSettings
from tledge.compression.methods.qat import QatSettings
from tledge.compression.order import CLUSTER, FILTERS, LOW_RANK, METHODS, PRUNE, QAT, Settings
from tledge.compression.shrink_settings import LowRankSettings, ShrinkSettings
from tledge.compression.truncation import AUTO
from tledge.core import settings as core
from tledge.core.errors import SettingsError
from tledge.core.settings import option
from tledge.evaluation.gates import parse_drop

MethodName = Literal["filters", "low-rank", "prune", "cluster", "qat"]


@dataclass(frozen=True)
class Options(core.Settings):
    """What may be asked for; None stands for the method's default.

    `method` names one or several, in the order in which to apply them. `speedup`, `max_drop`, `size_ratio`,
    `image_size`, `last_layer` and `pictures` belong to `filters` and `low-rank`, `sparsity` to `prune`, `clusters` to
    `cluster`; the others to every method. Ranges: see the settings classes.
    """

    method: tuple[MethodName, ...] = option(("low-rank",), help="What to do; repeat for several, one after the other.")
    speedup: float | None = option(None, help="Target ratio of multiply-adds, original to result, above 1.")
    max_drop: float | None = option(
        None, help="Instead: the smallest model that loses at most this on validation.", parse=parse_drop
    )
    size_ratio: float | None = option(None, help="Target ratio of weights, above 1; alone or with the others.")
    image_size: int | None = option(None, help="Input in pixels. Default: one that suits the speed-up.")
    last_layer: str | None = option(
        None,
        help="End the net at this layer, such as block4_pool. Default: auto, where validation does not suffer.",
        metavar="LAYER|auto|none",
    )
    pictures: int | None = option(None, help="Training images and random views of them to learn from.  [default: 800]")
    sparsity: float | None = option(None, help="prune: share of zeros in each layer, 0..1.  [default: 0.5]")
    clusters: int | None = option(None, help="cluster: most distinct weights in each layer.  [default: 16]")
    epochs: int | None = option(
        None,
        help="Most epochs of training; 0 for none. [default: low-rank, filters 10, prune 6, cluster 3, qat 5]",
    )
    learning_rate: float | None = option(
        None, help="Adam's highest. [default: low-rank 1e-4, filters 5e-5, others 1e-5]"
    )
    seed: int = option(0, help="Of everything random.")


ALL_DEFAULTS = Options()


_SHRINKING = ("speedup", "max_drop", "size_ratio", "image_size", "last_layer", "pictures")
_OWNERS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(_SHRINKING, (FILTERS, LOW_RANK)),
    "sparsity": (PRUNE,),
    "clusters": (CLUSTER,),
}


def settings_of(methods: Sequence[str], options: Options) -> tuple[Settings, ...]:
    """Settings of each method, in order.

    Raises:
        SettingsError: unknown method, an option that none of the methods has, or a value out of range.
    """
    if unknown := [method for method in methods if method not in METHODS]:
        raise SettingsError(f"expected a method of {', '.join(METHODS)}, but got {unknown[0]!r}; choose one of them")
    for name, owners in _OWNERS.items():
        if getattr(options, name) is not None and not set(owners) & set(methods):
            raise SettingsError(
                f"expected --{name.replace('_', '-')} only with --method {' or '.join(owners)}, but got it with "
                f"{', '.join(methods)}; leave it out or add the method"
            )
    return tuple(_MAKERS[method](options) for method in methods)


def _filters(options: Options) -> Settings:
    return _shrinking(ShrinkSettings, options)


def _low_rank(options: Options) -> Settings:
    return _shrinking(LowRankSettings, options)


def _shrinking(kind: type[ShrinkSettings], options: Options) -> Settings:
    settings = kind(
        speedup=options.speedup,
        max_drop=options.max_drop,
        size_ratio=options.size_ratio,
        image_size_px=options.image_size,
        last_layer=options.last_layer or AUTO,
        seed=options.seed,
    )
    return _paced(settings if options.pictures is None else replace(settings, pictures=options.pictures), options)


def _prune(options: Options) -> Settings:
    settings = PruneSettings(seed=options.seed)
    return _paced(settings if options.sparsity is None else replace(settings, sparsity=options.sparsity), options)


def _cluster(options: Options) -> Settings:
    settings = ClusterSettings(seed=options.seed)
    return _paced(settings if options.clusters is None else replace(settings, clusters=options.clusters), options)


def _qat(options: Options) -> Settings:
    return _paced(QatSettings(seed=options.seed), options)


def _paced(settings: Settings, options: Options) -> Settings:
    changes: dict[str, Any] = {}
    if options.epochs is not None:
        changes["epochs"] = options.epochs
    if options.learning_rate is not None:
        changes["learning_rate"] = options.learning_rate
    return replace(settings, **changes)


_MAKERS: Mapping[str, Callable[[Options], Settings]] = {
    FILTERS: _filters,
    LOW_RANK: _low_rank,
    PRUNE: _prune,
    CLUSTER: _cluster,
    QAT: _qat,
}
