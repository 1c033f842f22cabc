"""TFLite files in LiteRT's CompiledModel, which has accelerators, and can keep XNNPACK's packed weights in a file."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tledge.core.dependencies import quiet, require
from tledge.core.environment import available_cores
from tledge.core.errors import ArtefactError, FixedBatchError
from tledge.core.foreign import reason_of
from tledge.formats.tflite import operators_of
from tledge.runs.bench_json import Computed
from tledge.runtimes.adapter import Tensor, TensorSpec
from tledge.runtimes.litert import TFLiteAdapter
from tledge.runtimes.options import RuntimeOptions


class LiteRTCompiledAdapter(TFLiteAdapter):
    """A `.tflite` file, batch 1, on the CPU, or wholly on an accelerator: provider `gpu` or `npu`.

    With the CPU's help, LiteRT would not tell which operators an accelerator took. `weight_cache` of the options is a
    file of XNNPACK's. It is made if it is not there, and maps the weights ready for use if it is. LiteRT makes it anew
    for another model or version.
    """

    runtime = "litert"
    batch = 1

    def __init__(self, path: Path, threads: int | None, options: RuntimeOptions) -> None:
        super().__init__(path)
        compiled, compile_options, cpu, hardware = (
            require(f"ai_edge_litert.{name}")
            for name in ("compiled_model", "options", "cpu_options", "hardware_accelerator")
        )
        self._provider = options.provider
        accelerators = hardware.HardwareAccelerator
        accelerator = getattr(accelerators, options.provider.upper()) if options.provider else accelerators.CPU
        chosen = cpu.CpuOptions(
            num_threads=threads or available_cores(), xnnpack_weight_cache_path=options.weight_cache
        )
        refused = ""
        with quiet() as printed:
            try:
                self._model = compiled.CompiledModel.from_file(
                    str(path), options=compile_options.Options(accelerator, chosen)
                )
            except (ValueError, RuntimeError) as error:
                refused = _reason(error, printed())
        if refused:
            where, remedy = (f" for {options.provider}", "; take another provider") if options.provider else ("", "")
            raise ArtefactError(
                f"expected a TFLite model in {path} that LiteRT compiles{where}, but it refuses it: {refused}{remedy}"
            )
        signature = next(iter(self._model.get_signature_list()))
        self.inputs, self.outputs = (
            _specs(path, list(details.values()))
            for details in (
                self._model.get_input_tensor_details(signature),
                self._model.get_output_tensor_details(signature),
            )
        )
        self._inputs: list[Any] = self._model.create_input_buffers(0)
        self._outputs: list[Any] = self._model.create_output_buffers(0)

    def computed(self) -> Computed | None:
        """All operators, or none: LiteRT tells no more. What an accelerator computes in, it does not tell."""
        if not self._provider:
            return None
        operators = len(operators_of(self._path.read_bytes()))
        taken = operators if self._model.is_fully_accelerated() else 0
        return Computed(
            provider=self._provider, operators=operators, taken=taken, integer=None, multiply_adds_integer=None
        )

    def bind(self, values: Sequence[Tensor]) -> None:
        """Set the inputs.

        Raises:
            FixedBatchError: other than one image.
        """
        for buffer, value in zip(self._inputs, values, strict=True):
            if value.shape[:1] != (1,):
                raise FixedBatchError(
                    f"expected one image for LiteRT's CompiledModel, but got {len(value)}; use batch 1"
                )
            buffer.write(np.ascontiguousarray(value.ravel()))

    def invoke(self) -> None:
        """Run once."""
        self._model.run_by_index(0, self._inputs, self._outputs)

    def read(self) -> Sequence[Tensor]:
        """The outputs of the last run."""
        found = []
        for buffer, spec in zip(self._outputs, self.outputs, strict=True):
            shape = [n or 1 for n in spec.shape or ()]
            found.append(np.asarray(buffer.read(int(np.prod(shape)), spec.dtype)).reshape(shape))
        return found


def _reason(error: Exception, printed: str) -> str:
    """What LiteRT logged as an error, or the last line of its exception; the places in its sources say little."""
    logged = [line.partition("] ")[2] for line in printed.splitlines() if line.startswith("ERROR: [")]
    raised = [line.strip("└ ") for line in str(error).splitlines()]
    lines = [line for line in logged if line] or [line for line in raised if line]
    return reason_of(RuntimeError(lines[-1])) if lines else reason_of(error)


def _specs(path: Path, details: Sequence[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    """Tensors as CompiledModel describes them, with their quantization, of which it says nothing, from the file."""
    schema = require("ai_edge_litert.schema_py_generated")
    found = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
        for each in details:
            shape = tuple(int(n) if n > 0 else None for n in each["shape"])
            quantization = graph.Tensors(int(each["index"])).Quantization()
            scale, zero_point = 0.0, 0
            if quantization is not None and quantization.ScaleLength() == 1:
                scale, zero_point = float(quantization.Scale(0)), int(quantization.ZeroPoint(0))
            found.append(TensorSpec(shape, np.dtype(each["dtype"]), scale, zero_point))
    return tuple(found)
