"""What a user's environment would change in tledge: fixed for the call, given back after it, or told.

Keras takes settings from environment variables, from `~/.keras/keras.json` and from whatever else runs in the process.
tledge's models are channels-last, float32, in TensorFlow; under other settings they would be built otherwise, or not
be read again.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tledge.core.errors import SettingsError

_BACKEND, _LEGACY = "KERAS_BACKEND", "TF_USE_LEGACY_KERAS"
_OURS = {"image_data_format": "channels_last", "floatx": "float32", "epsilon": 1e-7}
# End a training after as many epochs or steps, for quick trials of scripts: here, of another model than was asked for.
_LIMITS = {"KERAS_MAX_EPOCHS": "max_epochs", "KERAS_MAX_STEPS_PER_EPOCH": "max_steps_per_epoch"}
# TensorFlow reads them at its first operation, and ends the process, with 1, over a flag that only another XLA knows.
_FLAGS = ("XLA_FLAGS", "TF_XLA_FLAGS")
# What Keras 2 and 3 take in their file of settings; anything else is an exception of theirs at import.
_TAKEN: dict[str, Callable[[Any], bool]] = {
    "floatx": lambda value: value in ("float16", "float32", "float64"),
    "epsilon": lambda value: isinstance(value, float),
    "image_data_format": lambda value: value in ("channels_last", "channels_first"),
}
_users: dict[str, Any] = {}
"""Settings of the user by module and name (`environment` for variables), while ours are in their place."""


@contextlib.contextmanager
def importing_keras() -> Iterator[None]:
    """Import Keras and TensorFlow in the block as tledge needs them, whatever the environment says.

    Raises:
        SettingsError: Keras runs in this process already, with another backend; its file of settings cannot be read.
    """
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "backend") and keras.backend.backend() != "tensorflow":
        raise SettingsError(
            f"expected Keras with the backend tensorflow, but this process has it with {keras.backend.backend()}; call "
            "tledge in a process of its own"
        )
    if keras is None:
        require_taken_settings()
    no_numbers = [name for name in _LIMITS if not os.environ.get(name, "").isdecimal()]
    with environment({_BACKEND: "tensorflow", _LEGACY: None} | dict.fromkeys((*_FLAGS, *no_numbers))):
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


def settings_file() -> Path:
    """Where Keras looks for the user's settings."""
    own = os.path.expanduser("~")  # which stays as it is where there is no home, as in Keras
    home = os.environ.get("KERAS_HOME") or f"{own if os.access(own, os.W_OK) else '/tmp'}/.keras"
    return Path(os.path.expanduser(home)) / "keras.json"


def require_taken_settings() -> None:
    """Check, before Keras is imported, that it will not fail over its file of settings.

    Raises:
        SettingsError: it will.
    """
    path, content = settings_file(), _settings()
    if not isinstance(content, dict):
        wrong = "it is no JSON object"
    elif refused := [name for name, is_taken in _TAKEN.items() if name in content and not is_taken(content[name])]:
        wrong = f"{refused[0]} is {content[refused[0]]!r:.40}"
    else:
        return
    raise SettingsError(f"expected settings that Keras can read in {path}, but {wrong}; correct or remove the file")


def _settings() -> Any:
    """What the user's file holds; nothing where Keras goes on without it."""
    try:
        return json.loads(settings_file().read_bytes())
    except RecursionError:
        return None
    except (OSError, ValueError):
        return {}


def settle(library: Any) -> None:
    """Give Keras, or tf_keras, the settings that tledge needs, and keep those that it had for `give_back`."""
    settings = library.backend if library.__name__ == "tf_keras" else library.config
    limits = dict.fromkeys(name for name in _LIMITS.values() if hasattr(settings, name))  # Keras 2 has none
    for name, value in (_OURS | limits).items():
        if (found := getattr(settings, name)()) != value:
            _users.setdefault(f"{library.__name__} {name}", found)
            getattr(settings, f"set_{name}")(value)
    if library.__name__ == "keras" and (policy := settings.dtype_policy()).name != "float32":
        _users.setdefault("keras dtype_policy", policy)
        settings.set_dtype_policy("float32")
    for name in _FLAGS:
        if name in os.environ:
            _users.setdefault(f"environment {name}", os.environ.pop(name))


def give_back() -> None:
    """Give Keras the user's settings back, where a call changed them, and the variables that it took away."""
    while _users:
        name, value = _users.popitem()
        library, _, setting = name.partition(" ")
        if library == "environment":
            os.environ[setting] = value
            continue
        module = sys.modules[library]
        settings = module.backend if library == "tf_keras" else module.config
        getattr(settings, f"set_{setting}")(value)


def overridden() -> tuple[str, ...]:
    """What of the user's settings tledge does not follow, a few words each; nothing is imported."""
    found = []
    if (backend := os.environ.get(_BACKEND, "tensorflow")) != "tensorflow":
        found.append(f"{_BACKEND}={backend}")
    if os.environ.get(_LEGACY, "0").lower() not in ("0", "", "false"):
        found.append(f"{_LEGACY}={os.environ[_LEGACY]}")
    found += [f"{name}={os.environ[name]}" for name in (*_LIMITS, *_FLAGS) if os.environ.get(name)]
    content = _settings()
    if isinstance(content, dict):
        ours = _OURS | {"backend": "tensorflow"}
        changed = [name for name in ours if content.get(name, ours[name]) != ours[name]]
        found += [f"{name} {content[name]!r} in {settings_file()}" for name in changed]
    return tuple(found)
