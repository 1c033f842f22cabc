"""Made by scripts/public_stub.py from the functions of the stages and the options of their settings."""

from tledge.evaluation.baseline import Accepted as Accepted
from tledge.adoption.adopt import AdoptedRun as AdoptedRun
from tledge.core.settings import AnyPath as AnyPath
from tledge.core.settings import AnyRun as AnyRun
from tledge.benchmark.bench import BenchResult as BenchResult
from collections.abc import Callable as Callable
from tledge.evaluation.results import CheckResult as CheckResult
from tledge.core.types import ClassWeighting as ClassWeighting
from tledge.core.types import ComputeType as ComputeType
from tledge.deployment.targets import DeviceTarget as DeviceTarget
from tledge.diagnosis.diagnose import Diagnosis as Diagnosis
from tledge.conversion.export import ExportResult as ExportResult
from tledge.benchmark.bench_files import FilesBenchResult as FilesBenchResult
from tledge.reporting.findings import Finding as Finding
from tledge.compression.search.goal import Goal as Goal
from tledge.core.types import HeadName as HeadName
from tledge.deployment.kit_bench import HostBenchResult as HostBenchResult
from tledge.selection.select import ImageSelection as ImageSelection
from tledge.reporting.inspection import Inspection as Inspection
from tledge.deployment.kit import Kit as Kit
from tledge.model.weights import KnownTrunk as KnownTrunk
from tledge.evaluation.gates.gate import Limits as Limits
from tledge.compression.options import MethodName as MethodName
from tledge.evaluation.gates.gate import OnUndecided as OnUndecided
from tledge.compression.optimize import OptimizedRun as OptimizedRun
from tledge.benchmark.sweep import OptionsResult as OptionsResult
from tledge.pipeline import PipelineResult as PipelineResult
from tledge.runtimes.predict import Prediction as Prediction
from tledge.core.progress import Progress as Progress
from tledge.reporting.report import Report as Report
from tledge.core.types import ResizeMode as ResizeMode
from tledge.reporting.compare import RunComparison as RunComparison
from tledge.compression.search.search import SearchResult as SearchResult
from collections.abc import Sequence as Sequence
from tledge.compression.search.search import ShowFront as ShowFront
from tledge.deployment.signing import SignedFile as SignedFile
from tledge.deployment.export import TargetExport as TargetExport
from tledge.core.types import TechniqueChoice as TechniqueChoice
from tledge.selection.select import TextSelection as TextSelection
from tledge.training.train import TrainedRun as TrainedRun
from tledge.model.user_trunks import UserTrunk as UserTrunk
from tledge.deployment.signing import VerifiedFile as VerifiedFile
import keras as keras
import tensorflow as tf
from tledge import training as training

__all__ = [
    "__version__",
    "add_weights",
    "adopt",
    "bench",
    "bench_files",
    "bench_on",
    "bench_options",
    "check",
    "check_models",
    "compare",
    "demo",
    "diagnose",
    "doctor",
    "export",
    "export_for_target",
    "export_model",
    "find_weights",
    "inspect",
    "kit",
    "list_targets",
    "list_weights",
    "load_target",
    "optimize",
    "predict",
    "quantized_check",
    "remove_weights",
    "report",
    "run",
    "save_baseline",
    "search",
    "select",
    "sign",
    "train",
    "verify",
]

__version__: str

def add_weights(
    name: str,
    file: AnyPath,
    *,
    domain: str = "",
    licence: str = "",
    replace: bool = False,
) -> UserTrunk:
    """Register the trunk in a file under a name, to be had by `--weights NAME` and looked at by `select`.

    Args:
        name: small letters, digits, - and _. Names of the catalogue are taken, save those the user has to make.
        file: anything that `--weights` takes as a file.
        domain: what it learned from, in a few words.
        licence: under which terms.
        replace: take the place of another trunk of this name.

    Raises:
        WeightsError: a name that is taken or impossible, or a file that is not VGG16's.
    """

def adopt(
    model: AnyPath,
    data: AnyPath,
    out: AnyPath,
    progress: Progress = ...,
    *,
    labels: AnyPath | None = None,
    input: str | None = None,
    output: str | None = None,
    resize: ResizeMode = "stretch",
    labels_from: str | None = None,
    seed: int = 0,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    drop_duplicates: bool = False,
    skip_unreadable: bool = False,
) -> AdoptedRun:
    """Write a new run around a finished model.

    Its reference takes RGB pixels of 0..255 and gives probabilities: the declared scaling is put in front of the model,
    a softmax behind logits, and one sigmoid becomes two classes. Nothing appears at `out` before the run is whole.

    Args:
        model: a `.keras` or `.h5` file of Keras 3 or Keras 2, or a SavedModel directory of Keras 2; functional or
            sequential, for RGB images.
        data: a folder of labelled images; its train, val and test folders are taken as such.
        labels: Class names, one a line in the order of the model's outputs. Default: the folders in alphabetical
            order.
        input: The pixels that the model takes: 0..255, 0..1, -1..1, caffe (BGR minus ImageNet's means), torch
            (0..1, ImageNet's mean and deviation), or mean:R/G/B,std:R/G/B in pixels of 0..255; and rgb or bgr.
            0..255 for a model that scales them itself.
        output: What the model puts out: logits get a softmax. Default: probabilities that sum to 1, or one
            sigmoid, which is the probability of the second class.
        resize: How pictures of another shape came to the input when the model was trained: stretched, their
            middle cut out, or whole between black bars (letterbox).
        labels_from: Where classes are told if not by folders: names (cat.12.jpg is a cat), or a CSV or JSONL file
            with columns path, label and perhaps subset.
        seed: Same seed, same data: same split, same result.
        val_fraction: Share of images for validation.
        test_fraction: Share of images for the check.
        drop_duplicates: Leave out copies that straddle subsets or classes.
        skip_unreadable: Leave unreadable files out, naming them, and go on.
        out: where the run goes.
        progress: called with (what is going on, steps done, steps in all).

    Raises:
        ArtefactError: no such model, not a classifier of RGB images with its layers, or something that nobody
            says.
        SettingsError: what is said contradicts itself or the model, which guesses where another form would be right.
        DataError: the images cannot be used, or the model guesses on them whatever the form.
        RunError: something is at `out` already, or another command is about to write it.
    """

def bench(
    run: AnyRun,
    *,
    threads: int | Sequence[int] | None = (),
    batch: int | Sequence[int] | None = (),
    rounds: int = 10,
    samples: int = 5,
    warmup: int = 2,
    until_stable: float | None = None,
    max_rounds: int = 100,
    provider: str | None = None,
    artefacts: Sequence[AnyPath] = (),
    progress: Progress = ...,
) -> BenchResult:
    """Measure the reference and artefacts of a run and write `bench.json`; what other machines measured stays in it.

    Without TensorFlow, as on a board, only the artefacts are measured and no speed-up is given.

    Args:
        run: the run.
        threads: Threads of one inference; several are measured one after the other. Default: all available cores.
        batch: Images per inference; several are measured one after the other. Default: 1.
        rounds: How often to go through all models in turn.
        samples: Measured inferences per model and round.
        warmup: Uncounted inferences before them, for 0.1 s or more.
        until_stable: Go on until the 95 % interval of every p50 (bootstrap over rounds) is within ±PERCENT (2) of
            it; --rounds is then the fewest.
        max_rounds: With --until-stable: stop after so many anyway.
        provider: What computes inside the runtime instead of its own choice: xnnpack, builtin, gpu or npu
            (LiteRT); cpu, cuda, tensorrt, coreml and others that onnxruntime here has; openvino. `tledge doctor`
            lists those here.
        artefacts: files to measure; empty for every artefact of the run.
        progress: called with (what, parts done, parts in all).

    Raises:
        SettingsError, MissingDependencyError: a provider that nobody knows, or that is not there.
        RunError, ArtefactError: what is to be measured is missing, damaged or of another run; a provider that takes
            nothing of a file, or does not fit one that was asked for.
    """

def bench_files(
    files: Sequence[AnyPath],
    *,
    threads: int | Sequence[int] | None = (),
    batch: int | Sequence[int] | None = (),
    rounds: int = 10,
    samples: int = 5,
    warmup: int = 2,
    until_stable: float | None = None,
    max_rounds: int = 100,
    provider: str | None = None,
    out: AnyPath | None = None,
    progress: Progress = ...,
) -> FilesBenchResult:
    """Measure model files on random input.

    Args:
        files: .tflite, .onnx, .ort and .keras files with any number of inputs; only the batch may be open.
        threads: Threads of one inference; several are measured one after the other. Default: all available cores.
        batch: Images per inference; several are measured one after the other. Default: 1.
        rounds: How often to go through all models in turn.
        samples: Measured inferences per model and round.
        warmup: Uncounted inferences before them, for 0.1 s or more.
        until_stable: Go on until the 95 % interval of every p50 (bootstrap over rounds) is within ±PERCENT (2) of
            it; --rounds is then the fewest.
        max_rounds: With --until-stable: stop after so many anyway.
        provider: What computes inside the runtime instead of its own choice: xnnpack, builtin, gpu or npu
            (LiteRT); cpu, cuda, tensorrt, coreml and others that onnxruntime here has; openvino. `tledge doctor`
            lists those here.
        out: a JSON file to write, replaced if it is there.
        progress: called with (what, parts done, parts in all).

    Raises:
        SettingsError: a file twice, or `out` is no place for a file.
        SettingsError, MissingDependencyError: a provider that nobody knows, or that is not there.
        ArtefactError: a file is missing, of another kind, or its runtime refuses it; a provider does not fit it or
            takes nothing of it.
    """

def bench_on(
    run: AnyRun,
    on: str | Sequence[str],
    *,
    remote_python: str = "python3",
    ssh_config: AnyPath | None = None,
    threads: int | Sequence[int] | None = (),
    rounds: int = 10,
    samples: int = 5,
    warmup: int = 2,
    time_limit: float = 3600.0,
    benchmark_model: AnyPath | None = None,
    target: str | DeviceTarget | None = None,
    data: AnyPath | None = None,
    progress: Progress = ...,
) -> HostBenchResult:
    """Measure a run on other machines and put it into `bench.json`: all machines, or nothing when one fails.

    Args:
        run: the run.
        on: addresses, `ssh://[user@]host[:port]`, `adb[:SERIAL]` or `browser[+webgpu][:COMMAND]`.
        remote_python: With --on: the Python there.
        ssh_config: With --on: a file instead of ~/.ssh/config.
        threads: Threads of one inference; several are measured one after the other. Default: all available cores.
        rounds: How often to go through all models in turn.
        samples: Measured inferences per model and round.
        warmup: Uncounted inferences before them, for 0.1 s or more.
        time_limit: With --on: most for one machine.
        benchmark_model: With --on adb: Google's benchmark_model for the device, which needs no Python there;
            TFLite files only.
        target: whose artefacts, exported if they are missing; None for every exported artefact of the run.
        data: where the run's images are now; None for where they were at training.
        progress: called with (what, parts done, parts in all).

    Raises:
        TledgeError: as `measure_on_hosts`.
    """

def bench_options(
    run: AnyRun,
    *,
    threads: int | Sequence[int] | None = (),
    batch: int | Sequence[int] | None = (),
    rounds: int = 10,
    samples: int = 5,
    warmup: int = 2,
    until_stable: float | None = None,
    max_rounds: int = 100,
    provider: str | None = None,
    artefacts: Sequence[AnyPath] = (),
    progress: Progress = ...,
) -> OptionsResult:
    """Try the options of each artefact's runtime, one changed at a time, and put what was found into `bench.json`.

    Args:
        run: the run.
        threads: Threads of one inference; several are measured one after the other. Default: all available cores.
        batch: Images per inference; several are measured one after the other. Default: 1.
        rounds: How often to go through all models in turn.
        samples: Measured inferences per model and round.
        warmup: Uncounted inferences before them, for 0.1 s or more.
        until_stable: Go on until the 95 % interval of every p50 (bootstrap over rounds) is within ±PERCENT (2) of
            it; --rounds is then the fewest.
        max_rounds: With --until-stable: stop after so many anyway.
        provider: What computes inside the runtime instead of its own choice: xnnpack, builtin, gpu or npu
            (LiteRT); cpu, cuda, tensorrt, coreml and others that onnxruntime here has; openvino. `tledge doctor`
            lists those here.
        artefacts: files; empty for every artefact of the run.
        progress: called with (what, parts done, parts in all).

    Raises:
        SettingsError: several numbers of threads or batch sizes.
        RunError, ArtefactError: what is to be measured is missing, damaged or of another run.
    """

def check(
    run: AnyRun,
    *,
    gates: str | Limits | None = None,
    max_drop: str | float | None = None,
    on_undecided: OnUndecided = "fail",
    baseline: AnyPath | None = None,
    unlabelled: AnyPath | None = None,
    resize_robustness: bool = False,
    provider: str | None = None,
    artefacts: Sequence[AnyPath] = (),
    data: AnyPath | None = None,
    labels_from: str | None = None,
    on: str | Sequence[str] | None = (),
    time_limit: float = 3600.0,
    remote_python: str = "python3",
    ssh_config: AnyPath | None = None,
    ray: str | None = None,
    progress: Progress = ...,
) -> CheckResult:
    """Compare artefacts with the reference, here or on other machines; write `check.json` and `predictions.csv`.

    The reference always answers here. On a host, every file has to answer every image; what its kind cannot answer
    with, such as float files in LiteRT Micro, is left out and noted, and refused where it was asked for. Files answer
    here as well, so that answers there and here can be compared; the verdict is that of the hosts.

    Args:
        run: the run.
        gates: Limits for all files, such as 'drop < 0.02, size < 2 MB'; repeat for more. On: drop, relative_drop,
            error_ratio, class_recall_drop, agreement, disagreement, resize_drop, probability_difference,
            mean_probability_difference, size, flash, arena, int8_share, latency_ratio, baseline_drop.
        max_drop: Short for --gate 'drop <= …'; default: the recipe's, or 0.02.
        on_undecided: What a gate counts as that the number of images cannot decide.
        baseline: Compare image by image with the release that `tledge baseline save` kept.
        unlabelled: Images without labels, in folders of any depth: where few answers change, little can be lost.
        resize_robustness: Also resize the images as apps do: bilinear without antialiasing, area, bicubic,
            nearest, centre crop, letterbox. A limit on resize_drop asks for it too.
        provider: What computes inside the runtime instead of its own choice: xnnpack, builtin, gpu or npu
            (LiteRT); cpu, cuda, tensorrt, coreml and others that onnxruntime here has; openvino. `tledge doctor`
            lists those here.
        artefacts: files to check; empty for every artefact of the run.
        data: where the run's images are now, if its test images are there; otherwise another folder of labelled images,
            all of which are checked on. None for the run's test subset where it was at training.
        labels_from: Where classes are told if not by folders: names (cat.12.jpg is a cat), or a CSV or JSONL file
            with columns path, label and perhaps subset.
        on: Have files answer there: ssh://user@host[:port], adb[:SERIAL], browser[+webgpu][:COMMAND], or micro
            for LiteRT Micro, the interpreter of microcontrollers, which takes int8 .tflite files; may be
            repeated.
        time_limit: With --on: most for one machine.
        remote_python: With --on: the Python there.
        ssh_config: With --on: a file instead of ~/.ssh/config.
        ray: Share the work with a Ray cluster: host:port, auto, or local for one on this machine's cores. Its
            machines read the run and the images at the same paths.
        progress: called with (what, images done, images in all).

    Raises:
        SettingsError: a file or a host is given twice, an address that is none, a limit on a baseline without one, or
            on a latency with hosts.
        RunError, DataError, ArtefactError: what is to be compared is missing, damaged or of another run.
        MissingDependencyError, RemoteError: a host cannot be reached, lacks something or fails; nothing is written.
    """

def check_models(
    reference: AnyPath,
    artefacts: Sequence[AnyPath],
    data: AnyPath,
    labels: AnyPath,
    *,
    inputs: str | Sequence[str] | None = (),
    outputs: str | Sequence[str] | None = (),
    gates: str | Limits | None = None,
    max_drop: str | float | None = None,
    on_undecided: OnUndecided = "fail",
    baseline: AnyPath | None = None,
    unlabelled: AnyPath | None = None,
    resize_robustness: bool = False,
    provider: str | None = None,
    labels_from: str | None = None,
    out: AnyPath | None = None,
    ray: str | None = None,
    progress: Progress = ...,
) -> CheckResult:
    """Compare model files with a reference on labelled images.

    Args:
        reference: a .keras, .h5, .onnx or .tflite file, or a SavedModel directory.
        artefacts: at least one other of these.
        data: a folder of labelled images; of a divided one its test/ subfolder.
        labels: class names, one per line, in the order of the models' outputs.
        inputs: The pixels a foreign model takes, words joined by commas. Values: 0..255, 0..1, -1..1, caffe (BGR
            minus ImageNet's means), torch (0..1, ImageNet's mean and deviation), or mean:R/G/B,std:R/G/B in
            pixels of 0..255. Order: rgb or bgr. Layout: nhwc or nchw. A size such as 224px, or 96x128px (height x
            width), where the model leaves it open. Repeat it: FORM fills in what a file does not say itself,
            MODEL=FORM overrules that file.
        outputs: What a foreign model puts out: probabilities or logits. Default: rows must be probabilities that
            sum to 1, or one sigmoid, which is the probability of the second class.
        gates: Limits for all files, such as 'drop < 0.02, size < 2 MB'; repeat for more. On: drop, relative_drop,
            error_ratio, class_recall_drop, agreement, disagreement, resize_drop, probability_difference,
            mean_probability_difference, size, flash, arena, int8_share, latency_ratio, baseline_drop.
        max_drop: Short for --gate 'drop <= …'; default: the recipe's, or 0.02.
        on_undecided: What a gate counts as that the number of images cannot decide.
        baseline: Compare image by image with the release that `tledge baseline save` kept.
        unlabelled: Images without labels, in folders of any depth: where few answers change, little can be lost.
        resize_robustness: Also resize the images as apps do: bilinear without antialiasing, area, bicubic,
            nearest, centre crop, letterbox. A limit on resize_drop asks for it too.
        provider: What computes inside the runtime instead of its own choice: xnnpack, builtin, gpu or npu
            (LiteRT); cpu, cuda, tensorrt, coreml and others that onnxruntime here has; openvino. `tledge doctor`
            lists those here.
        labels_from: Where classes are told if not by folders: names (cat.12.jpg is a cat), or a CSV or JSONL file
            with columns path, label and perhaps subset.
        out: a folder for `check.json` and `predictions.csv`; None to write nothing.
        ray: Share the work with a Ray cluster: host:port, auto, or local for one on this machine's cores. Its
            machines read the run and the images at the same paths.
        progress: called with (what, images done, images in all).

    Raises:
        SettingsError, DataError, ArtefactError, RunError: something does not fit; nothing is written.
    """

def compare(
    *runs: AnyRun,
) -> RunComparison:
    """Put runs side by side, or one run as this machine and others checked and measured it.

    Raises:
        SettingsError: no run, one twice, or a single one that no other machine checked or measured.
        RunError, ArtefactError: a run or one of its files is missing or malformed.
    """

def demo(
    out: AnyPath = ...,
    *,
    progress: Progress = ...,
) -> PipelineResult:
    """Do the main job on scikit-learn's handwritten digits: `out/digits` as PNG files, `out/run` made from them.

    Nothing is downloaded. The 1,797 digits are 8 x 8 pixels with values 0 to 16 (Alpaydin and Kaynak, 1998), real
    scans of 43 people's handwriting.

    Raises:
        RunError: `out/run` exists.
    """

def diagnose(
    run: AnyRun,
    artefact: AnyPath,
    *,
    json_path: AnyPath | None = None,
    data: AnyPath | None = None,
    progress: Progress = ...,
) -> Diagnosis:
    """Find the most likely reason why an artefact answers differently from the model it was exported from.

    The result is kept in the run, if that can be written to, for its report.
    Looks at the images that int8 files are calibrated on and, for the confusion, at the validation images; never at
    test images.

    Args:
        run: the run.
        artefact: a .tflite or .onnx file of it.
        json_path: where to write the result as JSON too; None for nowhere else.
        data: where the run's images are now; None for where they were at training.
        progress: called with (what, images done, images in all).

    Raises:
        RunError, DataError, ArtefactError: what is to be compared is missing, damaged or of another run.
    """

def doctor(
    run: AnyPath | None = None,
    data: AnyPath | None = None,
) -> tuple[Finding, ...]:
    """Look at packages, weights, processor, memory and disk, or at a run; nothing is changed, no TensorFlow is loaded.

    Args:
        run: a run to verify as a whole, instead of this machine.
        data: where its images are now; None for where they were at training.

    Raises:
        RunError: there is no run at `run`, or its manifest cannot be read.
        DataError: `data` is no folder.
    """

def export(
    run: AnyRun,
    recipes: Sequence[str] = (),
    *,
    force: bool = False,
    max_drop: float | None = None,
    data: AnyPath | None = None,
    progress: Progress = ...,
) -> ExportResult:
    """Export a run by recipes, skipping artefacts that are already there and made the same way.

    Args:
        run: the run.
        recipes: built-in names or TOML files; empty for the default six.
        force: export again even what is there.
        max_drop: largest allowed drop of accuracy on the run's validation images, 0..1, for int8 recipes: the layers
            that int8 harms most return to float until it holds. None exports as the recipes say.
        data: where the run's images are now; None for where they were at training.
        progress: called with (what, recipes done, recipes in all).

    Raises:
        RecipeError: unknown, malformed or impossible recipe.
        SettingsError: `max_drop` is no share, or asked of another recipe than int8 or of a run from
            quantization-aware training.
        RunError, DataError: the run or its images are not what the manifest says.
        VerificationError: a written file does not do what its recipe promises, or `max_drop` cannot be held; it is
            not kept.
    """

def export_for_target(
    run: AnyRun,
    target: str | DeviceTarget,
    *,
    force: bool = False,
    data: AnyPath | None = None,
    progress: Progress = ...,
) -> TargetExport:
    """Export a target's artefacts, skipping those that are already there and made the same way.

    Args:
        run: the run.
        target: the kind of device.
        force: export again even what is there.
        data: where the run's images are now; None for where they were at training.
        progress: called with (what, recipes done, recipes in all).

    Raises:
        SettingsError: the model cannot keep the target's limits; nothing was written.
        MissingDependencyError: a microcontroller's, and LiteRT Micro is not installed.
        RunError, DataError, VerificationError: as `tledge.conversion.export.export`.
    """

def export_model(
    model: keras.Model,
    calibration: tf.data.Dataset,
    classes: Sequence[str],
    out: AnyPath,
    recipes: Sequence[str] = (),
    *,
    input: str = "0..255",
    output: str | None = None,
    resize: ResizeMode = "stretch",
    progress: Progress = ...,
) -> ExportResult:
    """Export a model of Keras that is in memory, without a run: files by recipes, each proven as `tledge.export` does.

    Files take raw RGB bytes and return probabilities, whatever the model takes and gives: its scaling is put in front
    of it, a softmax behind logits. `out` then holds `model.keras` in that form, `labels.txt`, and in `export/` the
    files, with labels and metadata inside, each with its sidecar. Nothing appears there before all of it is whole.

    Args:
        model: functional or sequential, for RGB images; it stays as it is.
        calibration: batches of (images as the model takes them, class indices), of training images. Int8 files take
            their ranges from up to 100 of them, and every file is compared with the model on 20.
        classes: names in the order of the model's outputs.
        out: a folder that is not there yet.
        recipes: built-in names or TOML files; empty for the default six.
        input: what the model takes for a pixel: 0..255, 0..1, -1..1, caffe, torch, or mean:R/G/B,std:R/G/B; and rgb
            or bgr.
        output: logits for scores before the softmax; None for probabilities that sum to 1, or one sigmoid.
        resize: how pictures of another shape came to the input; files carry it.
        progress: called with (what, recipes done, recipes in all).

    Raises:
        RecipeError: unknown, malformed or impossible recipe.
        ArtefactError: not a classifier of RGB images, or of another number of classes.
        SettingsError: what is said contradicts itself or the values of the data set.
        DataError: the data set is not of that form or empty, or a name cannot be one.
        RunError: something is at `out` already.
        VerificationError: a written file does not do what its recipe promises; nothing is kept.
    """

def find_weights(
    name: str,
) -> KnownTrunk:
    """One entry by name.

    Raises:
        WeightsError: unknown name, or the entry is damaged.
    """

def inspect(
    path: AnyPath,
    *,
    inputs: str | Sequence[str] | None = (),
    outputs: str | Sequence[str] | None = (),
) -> Inspection:
    """Read a .tflite, .onnx, .keras or .h5 file, a SavedModel directory, or a run's manifest.

    Args:
        path: the file or directory.
        inputs: The pixels a foreign model takes, words joined by commas. Values: 0..255, 0..1, -1..1, caffe (BGR
            minus ImageNet's means), torch (0..1, ImageNet's mean and deviation), or mean:R/G/B,std:R/G/B in
            pixels of 0..255. Order: rgb or bgr. Layout: nhwc or nchw. A size such as 224px, or 96x128px (height x
            width), where the model leaves it open. Repeat it: FORM fills in what a file does not say itself,
            MODEL=FORM overrules that file.
        outputs: What a foreign model puts out: probabilities or logits. Default: rows must be probabilities that
            sum to 1, or one sigmoid, which is the probability of the second class.

    Raises:
        ArtefactError, RunError: the file cannot be read.
        SettingsError: a declaration about another file, or about a run, which needs none.
    """

def kit(
    run: AnyRun,
    out: AnyPath,
    *,
    target: str | DeviceTarget | None = None,
    images: int = 6,
    data: AnyPath | None = None,
    progress: Progress = ...,
) -> Kit:
    """Pack a run's artefacts for a device; equal runs, machines and versions give equal bytes.

    Args:
        run: the run.
        out: the zip to write; an old one is replaced.
        target: whose artefacts, exported if they are missing: a target, its name or TOML file; None for every exported
            artefact of the run. A target for browsers makes the kit a web page.
        images: how many test images go along, evenly over the classes, at least 1; in a web page also 0.
        data: where the run's images are now; None for where they were at training.
        progress: called with (what, parts done, parts in all).

    Raises:
        SettingsError: too few images, `out` is no place for a file, or the model cannot keep the target's limits.
        VerificationError: an exported file breaks a limit of the target.
        MissingDependencyError, RemoteError: a web page needs runtimes, and npm is missing or cannot fetch them.
        RunError, ArtefactError, DataError: the run, its artefacts or its images are not what they should be.
    """

def list_targets(
) -> tuple[str, ...]:
    """Names of the built-in targets, sorted.
    """

def list_weights(
) -> tuple[KnownTrunk, ...]:
    """The catalogue, then what else the user registered; nothing is downloaded and no weights are read.

    Raises:
        WeightsError: an entry is damaged.
    """

def load_target(
    name: str | DeviceTarget,
) -> DeviceTarget:
    """Read a target, given by a built-in name or by the path of a TOML file.

    Recipes that it names as files are looked for beside it.

    Raises:
        RecipeError: unknown or malformed, or its recipes are.
    """

def optimize(
    run: AnyRun,
    *,
    method: MethodName | Sequence[MethodName] | None = ...,
    speedup: float | None = None,
    max_drop: str | float | None = None,
    size_ratio: float | None = None,
    image_size: int | None = None,
    last_layer: str | None = None,
    pictures: int | None = None,
    budget: str | float | None = None,
    sparsity: float | None = None,
    clusters: int | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    out: AnyPath,
    data: AnyPath | None = None,
    unlabelled: AnyPath | None = None,
    fresh: bool = False,
    progress: Progress = ...,
) -> OptimizedRun:
    """Make a run's model cheaper, by one method or several in order; for a goal instead: `tledge.search`.

    Args:
        run: any finished run, trained or optimized.
        method: What to do; repeat for several, one after the other.
        speedup: Target ratio of multiply-adds, original to result, above 1.
        max_drop: Instead: the smallest model that loses at most this on validation.
        size_ratio: Target ratio of weights, above 1; alone or with the others.
        image_size: Input in pixels. Default: one that suits the speed-up.
        last_layer: End the net at this layer, such as block4_pool. Default: auto, where validation does not
            suffer.
        pictures: Training images and random views of them to learn from. Default: 800, or where there are many
            training images up to 12000.
        budget: low-rank: Instead: the best net whose int8 .tflite file is this small, e.g. "size < 1 MB".
        sparsity: prune: share of zeros in each layer, 0..1.  [default: 0.5]
        clusters: cluster: most distinct weights in each layer.  [default: 16]
        epochs: Most epochs of training; 0 for none. filters, low-rank: 10, or 3 of 4,000 pictures or more.
            [default: prune 6, cluster 3, qat 5]
        learning_rate: Adam's highest.  [default: filters 5e-05, low-rank 0.0001, prune, cluster, qat 1e-05]
        seed: Of everything random.
        out: where the new run goes.
        data: where the run's images are now; None for where they were at training.
        unlabelled: a folder of further pictures to learn the original's answers from, whatever they show.
        fresh: Begin anew instead of going on where a killed or interrupted command was.
        progress: called with (what is going on, done, in all).

    Raises:
        SettingsError: an option that none of the methods has, a value out of range, or a target that cannot be met.
        TledgeError: as `optimize`.
    """

def predict(
    model: AnyPath,
    images: Sequence[AnyPath],
    top: int = 3,
    *,
    inputs: str | Sequence[str] | None = (),
    outputs: str | Sequence[str] | None = (),
) -> tuple[Prediction, ...]:
    """Classify images, resized as the file or its run says; for files of other tools, which say nothing, stretched.

    Args:
        model: a .tflite, .onnx, .keras or .h5 file or a SavedModel directory, or a run, whose model is used.
        images: image files of any size.
        top: how many classes to return for each, at least 1.
        inputs: The pixels a foreign model takes, words joined by commas. Values: 0..255, 0..1, -1..1, caffe (BGR
            minus ImageNet's means), torch (0..1, ImageNet's mean and deviation), or mean:R/G/B,std:R/G/B in
            pixels of 0..255. Order: rgb or bgr. Layout: nhwc or nchw. A size such as 224px, or 96x128px (height x
            width), where the model leaves it open. Repeat it: FORM fills in what a file does not say itself,
            MODEL=FORM overrules that file.
        outputs: What a foreign model puts out: probabilities or logits. Default: rows must be probabilities that
            sum to 1, or one sigmoid, which is the probability of the second class.

    Raises:
        ArtefactError: the model cannot be run, it is not known which values it takes for pixels or what it puts out,
            or its labels do not fit its outputs.
        SettingsError: a declaration about another file, or about a run, which needs none.
        RunError: a run, or the model in it, is damaged or was changed.
        DataError: an image cannot be read, or `labels.txt` beside a model that has none.
    """

def quantized_check(
    training: tf.data.Dataset,
    validation: tf.data.Dataset,
    *,
    every: int = 1,
    recipe: str = "tflite-int8",
    input: str = "0..255",
    output: str | None = None,
) -> keras.callbacks.Callback:
    """A callback for `model.fit` that converts a copy of the model and asks the file about validation images.

    The copy goes the whole way of `tledge.export`: folded, calibrated, quantized, and opened in its own runtime. Logs
    and history of Keras then have `val_int8_accuracy` (or that of another precision) and `val_int8_images`, the number
    of images behind it, in the epochs that were checked; a callback after this one can monitor the former. Training
    goes on as it would without: weights, optimizer and random numbers are left alone. Only a data set that is shuffled
    anew in every pass notices that it was read once more.

    Args:
        training: batches of (images as the model takes them, class indices). Ranges are taken from as many as the
            recipe says, read once when training begins.
        validation: the images that are asked about, all of them at every check.
        every: epochs from one check to the next.
        recipe: a built-in name or a TOML file.
        input: what the model takes for a pixel, as for `tledge.export_model`.
        output: logits for scores before the softmax, as for `tledge.export_model`.

    Raises:
        RecipeError: unknown, malformed or impossible recipe.
        SettingsError: `every` is below 1.
        DataError: a data set is not of that form.
    """

def remove_weights(
    name: str,
) -> UserTrunk:
    """Forget a registered trunk.

    Raises:
        WeightsError: it is not the user's.
    """

def report(
    run: AnyRun,
    *,
    data: AnyPath | None = None,
) -> Report:
    """Put together what is known of a run and write `report.md`, the page `report.html`, and `MODEL_CARD.md`.

    Args:
        run: the run.
        data: where its images are now, for the thumbnails of the page; None for where they were.

    Raises:
        RunError, ArtefactError: the run or one of its files is missing or malformed.
        DataError: `data` is no folder, or a damaged archive.
    """

def run(
    data: AnyPath,
    technique: TechniqueChoice,
    out: AnyPath,
    *,
    weights: str = "imagenet",
    selection: str | None = None,
    head: HeadName | None = None,
    image_size: int = 224,
    resize: ResizeMode = "stretch",
    epochs: int | None = None,
    batch_size: int = 16,
    learning_rate: float | None = None,
    patience: int | None = None,
    freeze_until: str | None = None,
    class_weighting: ClassWeighting = "balanced",
    augment: bool = False,
    compute: ComputeType = "float32",
    labels_from: str | None = None,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
    skip_unreadable: bool = False,
    drop_duplicates: bool = False,
    recipes: Sequence[str] = (),
    gates: str | Limits | None = None,
    max_drop: str | float | None = None,
    on_undecided: OnUndecided = "pass",
    baseline: AnyPath | None = None,
    unlabelled: AnyPath | None = None,
    resize_robustness: bool = False,
    provider: str | None = None,
    threads: int | None = None,
    fresh: bool = False,
    progress: Progress = ...,
) -> PipelineResult:
    """Train, export, check, bench and report; the run stays usable if a later stage fails.

    Args:
        data: a folder of images, or an archive of them.
        technique: Transfer-learning technique; auto follows a selection.
        weights: imagenet, random, auto, a name, or a file.
        selection: For auto. Default: ./select.json if it fits, else made anew.
        head: Default: gap for feature-extraction, else flatten.
        image_size: Side of the input in pixels, at least 32.
        resize: How pictures of another shape come to the input: stretched, their middle cut out, or whole between
            black bars (letterbox).
        epochs: Most epochs to train; stops early when validation no longer improves.
        batch_size: Images per training step.
        learning_rate: Of Adam. Default: 1e-3 for a head alone, smaller otherwise.
        patience: Epochs without a better validation loss before training stops.
        freeze_until: freeze only: last frozen layer, or how many (0-19). Default: block4_pool.
        class_weighting: Let rare classes count as much as frequent ones.
        augment: Flip, turn and zoom training images at random, and resize half of them as apps do.
        compute: bfloat16 trains faster on processors with AMX or AVX-512 BF16; float16 is for GPUs (untried).
            Weights and files stay float32.
        labels_from: Where classes are told if not by folders: names (cat.12.jpg is a cat), or a CSV or JSONL file
            with columns path, label and perhaps subset.
        val_fraction: Share of images for validation.
        test_fraction: Share of images for the check.
        seed: Same seed, same data: same split, same result.
        skip_unreadable: Leave unreadable files out, naming them, and go on.
        drop_duplicates: Leave out copies that straddle subsets or classes.
        out: where the run goes.
        recipes: built-in names or TOML files; empty for the default six.
        gates: Limits for all files, such as 'drop < 0.02, size < 2 MB'; repeat for more. On: drop, relative_drop,
            error_ratio, class_recall_drop, agreement, disagreement, resize_drop, probability_difference,
            mean_probability_difference, size, flash, arena, int8_share, latency_ratio, baseline_drop.
        max_drop: Short for --gate 'drop <= …'; default: the recipe's, or 0.02.
        on_undecided: What a gate counts as that the number of images cannot decide.
        baseline: Compare image by image with the release that `tledge baseline save` kept.
        unlabelled: Images without labels, in folders of any depth: where few answers change, little can be lost.
        resize_robustness: Also resize the images as apps do: bilinear without antialiasing, area, bicubic,
            nearest, centre crop, letterbox. A limit on resize_drop asks for it too.
        provider: What computes inside the runtime instead of its own choice: xnnpack, builtin, gpu or npu
            (LiteRT); cpu, cuda, tensorrt, coreml and others that onnxruntime here has; openvino. `tledge doctor`
            lists those here.
        threads: of one inference of the bench; None for all cores.
        fresh: Begin anew instead of going on where a killed or interrupted command was.
        progress: called with (what is going on, steps done, steps in all).

    Raises:
        TledgeError: what the stages raise; recipes and bench settings are checked before training begins.
    """

def save_baseline(
    run: AnyRun,
    out: AnyPath,
) -> Accepted:
    """Keep the last check of a run, or of a folder that `check --out` wrote, as the accepted release.

    Raises:
        RunError: it was not checked, or not with this version.
    """

def search(
    run: AnyRun,
    goal: str | Goal,
    out: AnyPath,
    *,
    time_budget: float = 30.0,
    threads: int | None = None,
    on: str | None = None,
    epochs: int | None = None,
    seed: int = 0,
    ray: str | None = None,
    remote_python: str = "python3",
    ssh_config: AnyPath | None = None,
    data: AnyPath | None = None,
    unlabelled: AnyPath | None = None,
    fresh: bool = False,
    progress: Progress = ...,
    tell: Callable[[str], None] = ...,
    show_front: ShowFront = ...,
) -> SearchResult:
    """Look for the most accurate int8 file that holds a goal, and write the run it belongs to at `out`.

    Candidates go from cheap to dear and stay in a directory beside `out`, with their numbers: a search that was
    killed, or has another goal, uses again what is finished. Choices are made on validation images alone. Among files
    that hold the goal the highest accuracy wins, then the smallest p50, then the smallest size. The search ends when
    a file holds the goal and loses nothing, when no candidate is left, or when the time is spent.

    Args:
        run: the run; its reference is the original that everything is compared with.
        goal: Instead: search the most accurate int8 file that holds it, e.g. "p50 < 10 ms, size < 2 MB, drop <
            0.01". Metrics: p50, p90 (ms, us, s), size (B, kB, MB), drop, accuracy (0..1 or %), speedup (against
            Keras); for microcontrollers arena, flash (B, kB, MB, KiB, MiB).
        time_budget: With --goal: minutes after which no other candidate begins.
        threads: Threads of one inference. Default: all available cores.
        on: With --goal: measure latency on ssh://user@host[:port], adb[:SERIAL] or browser, not here.
        epochs: Most epochs of training; 0 for none. filters, low-rank: 10, or 3 of 4,000 pictures or more.
        seed: Of everything random.
        ray: Share the work with a Ray cluster: host:port, auto, or local for one on this machine's cores. Its
            machines read the run and the images at the same paths.
        out: where the new run goes; nothing is written there unless a file holds the goal.
        remote_python: With --on: the Python there.
        ssh_config: With --on: a file instead of ~/.ssh/config.
        data: where the run's images are now; None for where they were at training.
        unlabelled: a folder of further pictures from which candidates learn the original's answers.
        fresh: Begin anew instead of going on where a killed or interrupted command was.
        progress: called with (what is going on, steps done, steps in all).
        tell: called with a line when a candidate begins and when it is done.
        show_front: called after each candidate with the files that nothing beats so far.

    Raises:
        RunError: the run is damaged, something is at `out` or at the place for candidates, or another process is
            searching for it.
        DataError: the run's images are gone or changed, or `unlabelled` has none to learn from.
        MissingDependencyError: a goal on the arena without LiteRT Micro, or a cluster without Ray.
        RemoteError: as `tledge.core.cluster.connected`, or a machine that measures cannot be reached.
    """

def select(
    data: AnyPath,
    *,
    candidates: str | Sequence[str] | None = (),
    image_size: int = 224,
    images: int = 128,
    compute: ComputeType = "float32",
    seed: int = 0,
    resize: ResizeMode = "stretch",
    labels_from: str | None = None,
    out: AnyPath | None = None,
    progress: Progress = ...,
) -> ImageSelection | TextSelection:
    """Say which pre-trained model suits the data.

    Args:
        data: images or texts, as `tledge.data.modality` tells them apart.
        candidates: Only this one; repeat for several.
        image_size: Side of the input in pixels, as for train.
        images: Images to look at, at most; 4 per class at least.
        compute: As for train.
        seed: Of the sample.
        resize: As for train.
        labels_from: Where classes are told if not by folders: names (cat.12.jpg is a cat), or a CSV or JSONL file
            with columns path, label and perhaps subset.
        out: a select.json to write; None for none.
        progress: called with (what is going on, steps done, steps in all).

    Raises:
        SettingsError: a `compute` that this processor lacks.
        DataError: neither images nor texts, or images that cannot be used.
        WeightsError: a candidate is unknown, or none is at hand.
    """

def sign(
    paths: Sequence[AnyPath],
    key: AnyPath,
    *,
    password: str | None = None,
) -> tuple[SignedFile, ...]:
    """Sign files with a secret key of minisign: each gets a signature `<file>.minisig` beside it.

    The trusted comment holds name and SHA-256 of the file and, of an artefact, recipe and SHA-256 of the model that it
    was made from. Equal files and keys give equal signatures.

    Args:
        paths: files, or runs, of which every artefact is signed.
        key: the secret key, as `minisign -G` writes it.
        password: of the key, if it has one.

    Raises:
        SettingsError: no secret key, another password, or a path that is no file to sign.
        ArtefactError: an artefact is damaged, of another run or half exported, or a run has none.
        RunError: a folder is no run.
        MissingDependencyError: the package `minisign` is not installed.
    """

def train(
    data: AnyPath,
    technique: TechniqueChoice,
    out: AnyPath,
    progress: Progress = ...,
    *,
    weights: str = "imagenet",
    selection: str | None = None,
    head: HeadName | None = None,
    image_size: int = 224,
    resize: ResizeMode = "stretch",
    epochs: int | None = None,
    batch_size: int = 16,
    learning_rate: float | None = None,
    patience: int | None = None,
    freeze_until: str | None = None,
    class_weighting: ClassWeighting = "balanced",
    augment: bool = False,
    compute: ComputeType = "float32",
    labels_from: str | None = None,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
    skip_unreadable: bool = False,
    drop_duplicates: bool = False,
    fresh: bool = False,
) -> TrainedRun:
    """Train a reference model and write a new run.

    Nothing appears at `out` before the run is whole. How far the training is stays in a hidden folder beside it: the
    same call after an interruption goes on from there. With `TF_CONFIG` in the environment, the processes that it names
    train together, see `tledge.training.workers`.

    Args:
        data: a folder of images in any layout of `tledge.data.scan`, or an archive of them.
        technique: Transfer-learning technique; auto follows a selection.
        weights: imagenet, random, auto, a name, or a file.
        selection: For auto. Default: ./select.json if it fits, else made anew.
        head: Default: gap for feature-extraction, else flatten.
        image_size: Side of the input in pixels, at least 32.
        resize: How pictures of another shape come to the input: stretched, their middle cut out, or whole between
            black bars (letterbox).
        epochs: Most epochs to train; stops early when validation no longer improves.
        batch_size: Images per training step.
        learning_rate: Of Adam. Default: 1e-3 for a head alone, smaller otherwise.
        patience: Epochs without a better validation loss before training stops.
        freeze_until: freeze only: last frozen layer, or how many (0-19). Default: block4_pool.
        class_weighting: Let rare classes count as much as frequent ones.
        augment: Flip, turn and zoom training images at random, and resize half of them as apps do.
        compute: bfloat16 trains faster on processors with AMX or AVX-512 BF16; float16 is for GPUs (untried).
            Weights and files stay float32.
        labels_from: Where classes are told if not by folders: names (cat.12.jpg is a cat), or a CSV or JSONL file
            with columns path, label and perhaps subset.
        val_fraction: Share of images for validation.
        test_fraction: Share of images for the check.
        seed: Same seed, same data: same split, same result.
        skip_unreadable: Leave unreadable files out, naming them, and go on.
        drop_duplicates: Leave out copies that straddle subsets or classes.
        out: where the run goes.
        progress: called with (what is going on, steps done, steps in all).
        fresh: Begin anew instead of going on where a killed or interrupted command was.

    Raises:
        SettingsError: a setting or combination that makes no sense.
        DataError: the images cannot be trained on.
        WeightsError: the weights cannot be had.
        RunError: something is at `out` already, or another process is writing it.
        RemoteError: another worker of `TF_CONFIG` was lost.
    """

def verify(
    paths: Sequence[AnyPath],
    public_key: AnyPath,
) -> tuple[VerifiedFile, ...]:
    """Tell whether files are signed by the holder of a key, and unchanged since.

    Args:
        paths: files, or runs, of which every artefact is verified. The signature is `<file>.minisig` beside it.
        public_key: the public key, as `minisign -G` writes it.

    Raises:
        SettingsError: no public key, or a path that is no file.
        ArtefactError: a run has no artefacts.
        RunError: a folder is no run.
        MissingDependencyError: the package `minisign` is not installed.
    """
