"""TFLite artefacts in LiteRT's CompiledModel, which can keep XNNPACK's packed weights in a file between starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tledge.core.dependencies import quiet, require
from tledge.core.environment import available_cores
from tledge.core.errors import ArtefactError, FixedBatchError
from tledge.core.types import Images
from tledge.runtimes import require_images, square_rgb_side


class CompiledClassifier:
    """A `.tflite` file of this project's form, for measuring: it binds and runs, batch 1.

    Args:
        path: the file.
        threads: of one inference; None for all available cores.
        weight_cache: a file of XNNPACK's; it is made if it is not there, and maps the weights ready for use if it is.
            LiteRT makes it anew for another model or version.

    Raises:
        ArtefactError: LiteRT refuses the file.
    """

    runtime = "litert"

    def __init__(self, path: Path, threads: int | None, weight_cache: str) -> None:
        compiled, options, cpu, hardware = (
            require(f"ai_edge_litert.{name}")
            for name in ("compiled_model", "options", "cpu_options", "hardware_accelerator")
        )
        chosen = cpu.CpuOptions(num_threads=threads or available_cores(), xnnpack_weight_cache_path=weight_cache)
        try:
            with quiet():
                self._model = compiled.CompiledModel.from_file(
                    str(path), options=options.Options(hardware.HardwareAccelerator.CPU, chosen)
                )
        except (ValueError, RuntimeError) as error:
            reason = (str(error).strip() or "no reason given").splitlines()[0][:160]
            raise ArtefactError(f"expected a TFLite model in {path}, but LiteRT refuses it: {reason}") from None
        signature = next(iter(self._model.get_signature_list()))
        (details,) = self._model.get_input_tensor_details(signature).values()
        (output,) = self._model.get_output_tensor_details(signature).values()
        self._dtype, self._output_dtype = np.dtype(details["dtype"]), np.dtype(output["dtype"])
        self.image_size_px = square_rgb_side(path, tuple(int(n) for n in details["shape"]))
        self._classes = int(output["shape"][-1])
        self._inputs: list[Any] = self._model.create_input_buffers(0)
        self._outputs: list[Any] = self._model.create_output_buffers(0)

    def prepare(self, images: Images) -> None:
        """Bind the input of `invoke`.

        Raises:
            FixedBatchError: other than one image.
        """
        require_images(images, self.image_size_px)
        if len(images) != 1:
            raise FixedBatchError(f"expected one image for LiteRT's CompiledModel, but got {len(images)}; use batch 1")
        self._inputs[0].write(np.ascontiguousarray(images.ravel(), self._dtype))

    def invoke(self) -> None:
        """Run once on the bound input."""
        self._model.run_by_index(0, self._inputs, self._outputs)

    def scores(self) -> np.ndarray[Any, Any]:
        """What the last run put out, (C,) in the file's own dtype."""
        return np.asarray(self._outputs[0].read(self._classes, self._output_dtype))
