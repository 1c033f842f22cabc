"""Save Keras models so that equal models are equal files: a digest then says more than when something was saved."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tledge.core.dependencies import quiet
from tledge.core.files import EPOCH, write_zip

_CONFIG, _METADATA = "config.json", "metadata.json"
_SAVED = f"{EPOCH[0]}-{EPOCH[1]:02}-{EPOCH[2]:02}@00:00:00"


def save_model(model: Any, path: Path) -> None:
    """Save a model atomically; equal configurations and weights give equal bytes.

    Keras writes the time of day into the archive's directory and its metadata, and into the configuration the addresses
    of objects that several layers share (`shared_object_id`). Times become a fixed one, addresses numbers from 1 in the
    order in which they appear; what they tell apart stays apart. The optimizer is left out: its state is twice the
    weights, belongs to a training, and is another after one that went on in a second process.

    Args:
        model: a `keras.Model`.
        path: where the `.keras` file goes.
    """
    temporary = path.with_name(f".{path.stem}.partial-{os.getpid()}.keras")
    try:
        with quiet(), _without_optimizer(model):
            model.save(temporary)
        with zipfile.ZipFile(temporary) as archive:
            members: dict[str, bytes | Path] = {name: archive.read(name) for name in archive.namelist()}
        for name, settled in ((_CONFIG, _numbered), (_METADATA, _dated)):
            content = settled(json.loads(members[name]))  # type: ignore[arg-type]
            members[name] = json.dumps(content).encode()
        write_zip(path, members)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _without_optimizer(model: Any) -> Iterator[None]:
    if not model.compiled:
        yield
        return
    kept, model.optimizer, model.compiled = model.optimizer, None, False
    try:
        yield
    finally:
        model.optimizer, model.compiled = kept, True


def _dated(metadata: dict[str, Any]) -> dict[str, Any]:
    return metadata | {"date_saved": _SAVED}


def _numbered(config: Any, known: dict[int, int] | None = None) -> Any:
    known = {} if known is None else known
    if isinstance(config, list):
        return [_numbered(value, known) for value in config]
    if not isinstance(config, dict):
        return config
    return {
        name: known.setdefault(value, len(known) + 1) if name == "shared_object_id" else _numbered(value, known)
        for name, value in config.items()
    }
