"""tledge: fine-tune VGG16 on a folder of images, export it to TFLite and ONNX, and prove accuracy and latency per file.

Every command is a Python call too: `tledge.train(data, technique="freeze", out="run")`, `tledge.export("run")`,
`tledge.check("run")`, `tledge.bench("run")`. Paths may be text, and a run may be what a stage returned. Importing
tledge loads neither TensorFlow nor a runtime: a stage is imported when its function is first asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Where each public function lives. `__init__.pyi` tells type checkers; `python scripts/public_stub.py` writes it.
_FUNCTIONS = {
    "add_weights": "tledge.model.weights.add_trunk",
    "adopt": "tledge.adoption.adopt.adopt",
    "bench": "tledge.benchmark.bench.bench",
    "bench_files": "tledge.benchmark.bench_files.bench_files",
    "bench_on": "tledge.deployment.host_bench.bench_on_hosts",
    "bench_options": "tledge.benchmark.sweep.bench_options",
    "check": "tledge.deployment.host_check.check_run",
    "check_models": "tledge.evaluation.models.check_models",
    "compare": "tledge.reporting.compare.compare_runs",
    "demo": "tledge.pipeline.demo",
    "diagnose": "tledge.diagnosis.diagnose.diagnose",
    "doctor": "tledge.reporting.doctor.doctor",
    "export": "tledge.conversion.export.export",
    "export_for_target": "tledge.deployment.export.export_for_target",
    "export_model": "tledge.conversion.keras_models.export_model",
    "find_weights": "tledge.model.weights.find_trunk",
    "inspect": "tledge.reporting.inspection.inspect",
    "kit": "tledge.deployment.kit.build_kit",
    "list_targets": "tledge.deployment.targets.built_in_targets",
    "list_weights": "tledge.model.weights.known_trunks",
    "load_target": "tledge.deployment.targets.load_target",
    "optimize": "tledge.compression.optimize.optimize_by_name",
    "predict": "tledge.runtimes.predict.predict",
    "quantized_check": "tledge.conversion.quantized_check.quantized_check",
    "remove_weights": "tledge.model.weights.remove_trunk",
    "report": "tledge.reporting.report.report",
    "run": "tledge.pipeline.run_pipeline",
    "save_baseline": "tledge.evaluation.baseline.save_baseline",
    "search": "tledge.compression.search.search.search",
    "select": "tledge.selection.select.select",
    "sign": "tledge.deployment.signing.sign",
    "train": "tledge.training.train.train",
    "verify": "tledge.deployment.signing.verify",
}

# Packages that people call functions of.
_PACKAGES = ("training",)

__all__ = ["__version__", *_FUNCTIONS]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"tledge.{name}")
    if name not in _FUNCTIONS:
        raise AttributeError(f"module 'tledge' has no attribute {name!r}")
    from tledge.core.settings import public_call

    module, _, function = _FUNCTIONS[name].rpartition(".")
    call = public_call(getattr(importlib.import_module(module), function))
    call.__name__ = call.__qualname__ = name
    globals()[name] = call
    return call


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
