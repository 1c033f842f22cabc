"""Files that answer images in a browser of this machine, in onnxruntime-web and LiteRT.js."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tledge.conversion.artefacts import RunArtefact
from tledge.conversion.recipe import recipe_folder
from tledge.core.errors import DataError, RemoteError
from tledge.core.image_size import ImageSize, short_text
from tledge.core.progress import Progress
from tledge.core.types import Json, Probabilities
from tledge.deployment.hosts.browser import BrowserHost, open_page
from tledge.deployment.kit_bench import runtime_for
from tledge.deployment.web_runtimes import WEB_RUNTIMES, computes, web_runtime_files, web_versions
from tledge.evaluation.candidates import Candidate
from tledge.evaluation.hosts import HostAnswers
from tledge.runs.bench_json import this_machine
from tledge.runs.check_json import AnsweringEnvironment
from tledge.runs.images import ImageSet

_IMAGES = 32  # in one part: some megabytes of pixels, and progress within seconds


@dataclass(frozen=True)
class BrowserAnswers:
    """A browser that answers for a check, as `tledge.evaluation.hosts.AnsweringHost`.

    `time_limit` is how many seconds it may take for all files.
    """

    host: BrowserHost
    time_limit: float

    @property
    def wants(self) -> str:
        """As `AnsweringHost`."""
        return "a .tflite, .onnx or .ort file" if self.host.provider == "wasm" else "a float file, as WebGPU does"

    @property
    def on(self) -> str:
        """The host's address."""
        return self.host.on

    @property
    def name(self) -> str:
        """The host's name."""
        return self.host.name

    def require_ready(self, files: Sequence[Path]) -> None:
        """As `AnsweringHost`.

        Raises:
            MissingDependencyError: there is no npm, and the runtimes were never fetched.
            RemoteError: the browser does not start, or npm cannot fetch a runtime.
        """
        self.host.version()
        kinds = {runtime_for(path) for path in files}
        _runtime_files({kind for kind in kinds if kind is not None}, self.host)

    def takes(self, artefact: RunArtefact) -> bool:
        """As `AnsweringHost`: what the runtimes lack shows when they open the file."""
        return runtime_for(artefact.path) is not None and computes(self.host.provider, artefact)

    def answer(self, files: Sequence[Candidate], images: Sequence[ImageSet], progress: Progress) -> HostAnswers:
        """As `AnsweringHost`.

        Raises:
            RemoteError: the browser or the page failed, a file does not run there, or the time was not enough.
            DataError: an image has changed since it was listed.
        """
        runtimes = {file.classifier.runtime for file in files}
        served = _Served(files, images, self.host)
        adapter = None
        told: list[list[list[float]]] = []
        parts = [(file, part) for file in files for part in served.parts(file)]
        try:
            with open_page(self.host, served.read, "answers.html") as page:
                for message in page.messages(self.time_limit):
                    if "answers" in message:
                        told.append(message["answers"])
                        progress(f"answers in {self.name}, parts", len(told), len(parts))
                    elif self.host.provider == "webgpu":
                        adapter = message["result"]["adapter"]
        except RemoteError:
            if served.failed is not None:
                raise served.failed from None
            raise
        found: dict[tuple[str, int], list[Probabilities]] = {}
        for (file, part), rows in zip(parts, told, strict=True):
            values = np.asarray(rows, np.float32)
            if values.shape != (part.images, file.classifier.classes):
                raise RemoteError(
                    f"expected {file.classifier.classes} probabilities of each of {part.images} images from "
                    f"{file.name} in {self.name}, but got numbers of the shape {values.shape}; run it again"
                )
            found.setdefault((file.name, part.of_set), []).append(values)
        environment = AnsweringEnvironment(
            machine=this_machine(),
            versions=dict([self.host.version()]) | web_versions(runtimes, adapter),
        )
        return HostAnswers(
            environment,
            tuple(WEB_RUNTIMES[file.classifier.runtime].name for file in files),
            tuple(tuple(np.concatenate(found[file.name, number]) for file in files) for number, _ in enumerate(images)),
        )


@dataclass(frozen=True)
class _Part:
    """Some images of a set, in one size."""

    of_set: int
    size: ImageSize
    start: int
    images: int

    @property
    def address(self) -> str:
        return f"pixels/{self.of_set}/{short_text(self.size)}/{self.start}".replace(" ", "")


def _runtime_files(runtimes: set[str], host: BrowserHost) -> dict[str, bytes]:
    return web_runtime_files(runtimes, webgpu=runtimes if host.provider == "webgpu" else ())


class _Served:
    """What the page asks for; `failed` is why images could not be read."""

    def __init__(self, files: Sequence[Candidate], images: Sequence[ImageSet], host: BrowserHost) -> None:
        self.failed: DataError | None = None
        self._images = images
        self._parts = {part.address: part for file in files for part in self.parts(file)}
        self._models = {f"models/{file.path.name}": file.path for file in files}
        self._provider = host.provider
        runtimes = _runtime_files({file.classifier.runtime for file in files}, host)
        self._fixed = runtimes | {"job.json": json.dumps([self._job(file) for file in files]).encode()}

    def parts(self, file: Candidate) -> list[_Part]:
        """All images of all sets, as a file takes them."""
        size = file.classifier.image_size_px
        return [
            _Part(number, size, start, min(_IMAGES, several.n - start))
            for number, several in enumerate(self._images)
            for start in range(0, several.n, _IMAGES)
        ]

    def _job(self, file: Candidate) -> Json:
        classifier, output = file.classifier, file.classifier.form.output
        return {
            "artefact": {
                "name": file.name,
                "file": f"models/{file.path.name}",
                "runtime": classifier.runtime,
                "input_dtype": classifier.input_dtype,
                "output_scale": output.scale,
                "output_zero_point": output.zero_point,
            },
            "size": classifier.image_size_px,
            "provider": self._provider,
            "parts": [{"address": part.address, "images": part.images} for part in self.parts(file)],
        }

    def read(self, name: str) -> bytes | None:
        """As `tledge.deployment.hosts.browser.Files`."""
        if name in self._fixed:
            return self._fixed[name]
        if name in self._models:
            return self._models[name].read_bytes()
        if (part := self._parts.get(name)) is not None:
            try:
                store = self._images[part.of_set].stores[part.size]
                return store.take(np.arange(part.start, part.start + part.images)).tobytes()
            except DataError as error:
                self.failed = error
                return None
        if "/" not in name:
            for folder in ("browser_answers", "browser"):
                if (path := recipe_folder() / folder / name).is_file():
                    return path.read_bytes()
        return None
