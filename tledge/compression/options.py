"""From options, as the command line and Python calls take them, to the settings of each method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tledge.compression.clustering import ClusterSettings
from tledge.compression.filters import ShrinkSettings
from tledge.compression.order import CLUSTER, FILTERS, METHODS, PRUNE, QAT, Settings
from tledge.compression.qat import QatSettings
from tledge.compression.sparsity import PruneSettings
from tledge.compression.truncation import AUTO
from tledge.errors import SettingsError


@dataclass(frozen=True)
class Options:
    """What may be asked for; None stands for the method's default.

    `speedup`, `max_drop`, `size_ratio`, `image_size`, `last_layer` and `pictures` belong to `filters`, `sparsity` to
    `prune`, `clusters` to `cluster`; the others to every method. See the settings classes for their ranges.
    """

    speedup: float | None = None
    max_drop: float | None = None
    size_ratio: float | None = None
    image_size: int | None = None
    last_layer: str | None = None
    pictures: int | None = None
    sparsity: float | None = None
    clusters: int | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    seed: int = 0


_OWN: Mapping[str, tuple[str, ...]] = {
    FILTERS: ("speedup", "max_drop", "size_ratio", "image_size", "last_layer", "pictures"),
    PRUNE: ("sparsity",),
    CLUSTER: ("clusters",),
    QAT: (),
}


def settings_of(methods: Sequence[str], options: Options) -> tuple[Settings, ...]:
    """Settings of each method, in order.

    Raises:
        SettingsError: unknown method, an option that none of the methods has, or a value out of range.
    """
    if unknown := [method for method in methods if method not in METHODS]:
        raise SettingsError(f"expected a method of {', '.join(METHODS)}, but got {unknown[0]!r}; choose one of them")
    for owner, names in _OWN.items():
        for name in names:
            if owner not in methods and getattr(options, name) is not None:
                raise SettingsError(
                    f"expected --{name.replace('_', '-')} only with --method {owner}, but got it with "
                    f"{', '.join(methods)}; leave it out or add the method"
                )
    return tuple(_MAKERS[method](options) for method in methods)


def _filters(options: Options) -> Settings:
    settings = ShrinkSettings(
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
    PRUNE: _prune,
    CLUSTER: _cluster,
    QAT: _qat,
}
