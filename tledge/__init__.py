"""tledge: fine-tune VGG16 on a folder of images, export it to TFLite and ONNX, and prove accuracy and latency per file.

The stages are Python calls too: `tledge.train(data, technique="freeze", out="run")`, `tledge.export(run)`,
`tledge.check(run)`, `tledge.bench(run)`. Importing tledge loads neither TensorFlow nor a runtime.
"""

__version__ = "0.1.0"

from tledge.api import (
    check,
    diagnose,
    export,
    export_for_target,
    inspect,
    kit,
    optimize,
    predict,
    report,
    run,
    save_baseline,
    train,
)
from tledge.api_bench import bench, bench_files, bench_options, compare
from tledge.api_remote import bench_on, search
from tledge.api_select import add_weights, select

__all__ = [
    "__version__",
    "add_weights",
    "bench",
    "bench_files",
    "bench_on",
    "bench_options",
    "check",
    "compare",
    "diagnose",
    "export",
    "export_for_target",
    "inspect",
    "kit",
    "optimize",
    "predict",
    "report",
    "run",
    "save_baseline",
    "search",
    "select",
    "train",
]
