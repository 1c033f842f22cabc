"""Providers: what computes inside a runtime. Which there are, which files they fit, and how one gets them.

A provider of LiteRT or OpenVINO is a line of `_PROVIDERS`; those of onnxruntime are asked of the package that is
installed, and `_BUILDS` says where others come from. Names may stand for several runtimes: of those that fit a file and
are there, the first one computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tledge.core.dependencies import installed, require
from tledge.core.errors import ArtefactError, MissingDependencyError, SettingsError
from tledge.core.settings import Settings, option

if TYPE_CHECKING:
    from tledge.runs.bench_json import Computed

_ENDING = "ExecutionProvider"
_TFLITE, _ONNX = (".tflite",), (".onnx", ".ort")


@dataclass(frozen=True)
class ProviderSettings(Settings):
    """What computes inside the runtimes."""

    provider: str | None = option(
        None,
        help="What computes inside the runtime instead of its own choice: xnnpack, builtin, gpu or npu (LiteRT); cpu, "
        "cuda, tensorrt, coreml and others that onnxruntime here has; openvino. `tledge doctor` lists those here.",
        metavar="NAME",
    )


@dataclass(frozen=True)
class Provider:
    """One provider.

    `runtime` is the runtime that it computes in, `suffixes` are the files that it fits, `package` is what has to be
    installed, `get` how, in words. `tried` says whether the project has tried it on hardware.
    """

    name: str
    runtime: str
    suffixes: tuple[str, ...]
    package: str
    get: str
    tried: bool = False

    @property
    def there(self) -> bool:
        """Whether the software is there; a processor or driver may still lack, which shows when a file is opened."""
        if not installed(self.package):
            return False
        return self.runtime != "onnxruntime" or self.name in _of_onnxruntime()


_LITERT = "pip install 'tledge[device]'"
_PROVIDERS = (
    Provider("xnnpack", "litert", _TFLITE, "ai_edge_litert", _LITERT, tried=True),
    Provider("builtin", "litert", _TFLITE, "ai_edge_litert", _LITERT, tried=True),
    Provider("gpu", "litert", _TFLITE, "ai_edge_litert", _LITERT),
    Provider("npu", "litert", _TFLITE, "ai_edge_litert", _LITERT),
    Provider("openvino", "openvino", (".tflite", ".onnx"), "openvino", "pip install 'tledge[openvino]'", tried=True),
)
# Of onnxruntime, by what its package is called or where it is built in.
_BUILDS: Mapping[str, str] = {
    "cpu": "pip install 'tledge[device]'",
    "cuda": "pip install onnxruntime-gpu in place of onnxruntime",
    "tensorrt": "pip install onnxruntime-gpu in place of onnxruntime, and TensorRT",
    "coreml": "install onnxruntime on macOS",
    "nnapi": "install onnxruntime on Android",
    "qnn": "pip install onnxruntime-qnn in place of onnxruntime",
    "xnnpack": "build onnxruntime with it",
    "webgpu": "build onnxruntime with it",
    "openvino": "pip install onnxruntime-openvino in place of onnxruntime",
}


def _of_onnxruntime() -> tuple[str, ...]:
    """Names of the providers in the installed onnxruntime; none without one."""
    if not installed("onnxruntime"):
        return ()
    return tuple(
        sorted(name.removesuffix(_ENDING).lower() for name in require("onnxruntime").get_available_providers())
    )


def known_providers() -> tuple[Provider, ...]:
    """All that have a name here, in the order in which they are taken."""
    names = dict.fromkeys((*_BUILDS, *_of_onnxruntime()))
    others = (
        Provider(name, "onnxruntime", _ONNX, "onnxruntime", _BUILDS.get(name, _BUILDS["cpu"]), tried=name == "cpu")
        for name in names
    )
    return (*_PROVIDERS, *others)


def onnxruntime_name(provider: str) -> str:
    """What onnxruntime calls one of its providers."""
    own: Sequence[str] = require("onnxruntime").get_available_providers()
    return next(name for name in own if name.removesuffix(_ENDING).lower() == provider)


def require_provider(name: str | None) -> None:
    """Check, before slow work, that a provider is there; None stands for a runtime's own choice.

    Raises:
        SettingsError: nobody knows it.
        MissingDependencyError: it is not there; the message says what is, and how to get it.
    """
    if not name:
        return
    known = known_providers()
    same = [one for one in known if one.name == name]
    if not same:
        names = ", ".join(dict.fromkeys(one.name for one in known))
        raise SettingsError(f"expected --provider of {names}, but got {name!r}; choose one")
    if not any(one.there for one in same):
        here = ", ".join(dict.fromkeys(one.name for one in known if one.there)) or "none"
        raise MissingDependencyError(
            f"expected the provider {name}, but {same[0].runtime} here does not have it; {same[0].get}, or take one "
            f"that is there: {here}"
        )


def provider_of(path: Path, name: str) -> Provider | None:
    """The provider of this name that computes a file; None if it does not fit the file's runtime or is not there."""
    suffix = path.suffix.lower()
    return next((one for one in known_providers() if one.name == name and suffix in one.suffixes and one.there), None)


def require_fitting(path: Path, name: str) -> Provider:
    """The provider of this name that computes a file.

    Raises:
        SettingsError, MissingDependencyError: as `require_provider`.
        ArtefactError: it does not fit the file's runtime.
    """
    require_provider(name)
    found = provider_of(path, name)
    if found is None:
        same = [one for one in known_providers() if one.name == name and one.there]
        fitting = " or ".join(dict.fromkeys(suffix for one in same for suffix in one.suffixes))
        raise ArtefactError(
            f"expected a {fitting} file for --provider {name}, but got {path}; leave the file out, or choose another "
            "provider"
        )
    return found


def only_fitting(paths: Sequence[Path], name: str | None, *, asked: bool) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The files that a provider fits, and notes on the others; all files without a name.

    Args:
        paths: the files.
        name: of the provider.
        asked: whether somebody asked for just these files, so that none may be left out.

    Raises:
        SettingsError, MissingDependencyError: as `require_provider`.
        ArtefactError: a file that was asked for does not fit, or none does.
    """
    if not name:
        return tuple(paths), ()
    require_provider(name)
    fitting = tuple(path for path in paths if provider_of(path, name) is not None)
    if paths and (not fitting or (asked and len(fitting) < len(paths))):
        require_fitting(next(path for path in paths if path not in fitting), name)
    others = (path for path in paths if path not in fitting)
    return fitting, tuple(f"{path.name}: left out, {name} does not compute in its runtime" for path in others)


def require_taken(file: str, provider: str, computed: Computed | None) -> Computed:
    """What a provider took of a file.

    Raises:
        ArtefactError: nothing.
    """
    if computed is None or not computed.taken:
        reason = computed.reason if computed is not None and computed.reason else "its runtime does not say why"
        raise ArtefactError(
            f"expected {provider} to compute operators of {file}, but it took none; {reason}; take another provider"
        )
    return computed


def as_text(computed: Computed) -> str:
    """One line for notes."""
    line = f"{computed.provider} computes {computed.taken} of {computed.operators} operators"
    if computed.integer is not None:
        line += f", {computed.integer} of them in integers"
    if computed.multiply_adds_integer is not None:
        line += f" ({100 * computed.multiply_adds_integer:.1f} % of the multiply-adds)"
    return line + (f"; {computed.reason}" if computed.reason else "")
