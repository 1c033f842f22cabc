"""What a user's environment would change in tledge: fixed for the call, given back after it, or told.

Keras takes settings from environment variables, from `~/.keras/keras.json` and from whatever else runs in the process.
tledge's models are channels-last, float32, in TensorFlow; under other settings they would be built otherwise, or not
be read again.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from tledge.core.errors import SettingsError

_BACKEND, _LEGACY = "KERAS_BACKEND", "TF_USE_LEGACY_KERAS"
_OURS = {"image_data_format": "channels_last", "floatx": "float32", "epsilon": 1e-7}
_users: dict[str, Any] = {}
"""Keras's settings of the user by module and name, while ours are in their place."""


@contextlib.contextmanager
def importing_keras() -> Iterator[None]:
    """Import Keras and TensorFlow in the block as tledge needs them, whatever the environment says.

    Raises:
        SettingsError: Keras runs in this process already, with another backend.
    """
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "backend") and keras.backend.backend() != "tensorflow":
        raise SettingsError(
            f"expected Keras with the backend tensorflow, but this process has it with {keras.backend.backend()}; call "
            "tledge in a process of its own"
        )
    with environment({_BACKEND: "tensorflow", _LEGACY: None}):
        yield


@contextlib.contextmanager
def environment(wanted: dict[str, str | None]) -> Iterator[None]:
    """Set environment variables in the block, or remove those that are None."""
    before = {name: os.environ.get(name) for name in wanted}
    _set(wanted)
    try:
        yield
    finally:
        _set(before)


def _set(wanted: dict[str, str | None]) -> None:
    for name, value in wanted.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def settle(library: Any) -> None:
    """Give Keras, or tf_keras, the settings that tledge needs, and keep those that it had for `give_back`."""
    settings = library.backend if library.__name__ == "tf_keras" else library.config
    for name, value in _OURS.items():
        if (found := getattr(settings, name)()) != value:
            _users.setdefault(f"{library.__name__} {name}", found)
            getattr(settings, f"set_{name}")(value)
    if library.__name__ == "keras" and (policy := settings.dtype_policy()).name != "float32":
        _users.setdefault("keras dtype_policy", policy)
        settings.set_dtype_policy("float32")


def give_back() -> None:
    """Give Keras the user's settings back, where a call changed them."""
    while _users:
        name, value = _users.popitem()
        library, _, setting = name.partition(" ")
        module = sys.modules[library]
        settings = module.backend if library == "tf_keras" else module.config
        getattr(settings, f"set_{setting}")(value)


def overridden() -> tuple[str, ...]:
    """What of the user's settings tledge does not follow, a few words each; nothing is imported."""
    import json
    from pathlib import Path

    found = []
    if (backend := os.environ.get(_BACKEND, "tensorflow")) != "tensorflow":
        found.append(f"{_BACKEND}={backend}")
    if os.environ.get(_LEGACY, "0").lower() not in ("0", "", "false"):
        found.append(f"{_LEGACY}={os.environ[_LEGACY]}")
    home = os.environ.get("KERAS_HOME")
    path = (Path(home) if home else Path("~/.keras").expanduser()) / "keras.json"
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
            ours = _OURS | {"backend": "tensorflow"}
            found += [
                f"{name} {content[name]!r} in {path}" for name in ours if content.get(name, ours[name]) != ours[name]
            ]
    return tuple(found)
