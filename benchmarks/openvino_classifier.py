"""OpenVINO's own files (IR) behind tledge's `ImageClassifier`, for `peers.py`; as a script it serves measurements."""

from __future__ import annotations

from pathlib import Path

from tledge.benchmark.worker import serve_classifier
from tledge.core.dependencies import require
from tledge.core.types import Json
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier
from tledge.runtimes.adapter import Said
from tledge.runtimes.openvino import OpenVinoAdapter, read_model, specs
from tledge.runtimes.options import DEFAULT_OPTIONS, RuntimeOptions


class IrAdapter(OpenVinoAdapter):
    """An IR file, which has no place for what tledge would say of it, and is not written by tledge."""

    def __init__(self, path: Path, threads: int | None) -> None:
        model = read_model(path)
        super().__init__(path, model, specs(model.inputs), specs(model.outputs), threads)

    def labels(self) -> tuple[str, ...] | None:
        """None."""
        return None

    def said(self) -> Said | None:
        """None."""
        return None

    def lineage(self) -> Json | None:
        """None."""
        return None


def open_openvino(path: Path, threads: int, _: RuntimeOptions = DEFAULT_OPTIONS) -> ImageClassifier:
    """A model that was made from one of a run, and takes raw RGB bytes as that does."""
    return ImageClassifier(path.name, IrAdapter(path, threads), MODEL_OF_A_RUN)


if __name__ == "__main__":
    require("openvino")
    serve_classifier(open_openvino)
