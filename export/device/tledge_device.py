#!/usr/bin/env python3
"""Run the models of a tledge kit on this device: classify images, or measure.

Needs Python 3.10, numpy and one of ai-edge-litert (.tflite) and onnxruntime (.onnx, .ort); Pillow only to open images,
which tledge_resize.py beside this file resizes as in training.
Exit codes: 0 done, 1 the kit is damaged, answers are wrong or a limit is broken, 2 bad input or usage.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import importlib
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

if sys.version_info < (3, 10):  # noqa: UP036 - a kit goes where no installer looks at the version
    print(f"tledge_device: expected Python 3.10 or later, but this is {platform.python_version()}", file=sys.stderr)
    sys.exit(2)
try:
    import numpy as np
except ImportError as missing:
    said = str(missing).strip().splitlines()[0]
    print(f"tledge_device: expected numpy, but {said}; install it as README.md says", file=sys.stderr)
    sys.exit(2)

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime would report to its vendor, and leave files
KIT = Path(__file__).resolve().parent
SCHEMA_VERSION = 1
WARMUP_S = 0.1  # the threads of a process that slept start on one core; the system spreads them within that time
PACKAGES = {"litert": ("ai_edge_litert", "ai-edge-litert"), "onnxruntime": ("onnxruntime", "onnxruntime")}
MODULES = {"litert": "ai_edge_litert.interpreter", "onnxruntime": "onnxruntime"}  # what loads their libraries
ORT_ERRORS = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
# Control characters, what shows text in another order than it has or not at all, halves of characters.
HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
TELLING_FLAGS = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "asimdhp", "i8mm", "sve")


class KitError(Exception):
    """The kit is damaged, or this device answers differently: exit 1."""


class UsageError(Exception):
    """Bad input, or something is not installed: exit 2."""


class TFLiteModel:
    """A .tflite file in LiteRT, batch 1."""

    def __init__(self, path: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]
        self.size = tuple(map(int, self._input["shape"][1:3]))

    def prepare(self, pixels: np.ndarray[Any, Any]) -> None:
        """Bind (H, W, 3) uint8 RGB pixels."""
        values = pixels[np.newaxis]
        if self._input["dtype"] == np.int8:
            values = values.astype(np.int16) - 128
        self._interpreter.set_tensor(self._input["index"], values.astype(self._input["dtype"]))

    def invoke(self) -> None:
        """Run once."""
        self._interpreter.invoke()

    def answer(self) -> np.ndarray[Any, Any]:
        """Probabilities of the last run, (C,) float32."""
        raw = self._interpreter.get_tensor(self._output["index"])[0]
        if raw.dtype == np.float32:
            return np.asarray(raw)
        scale, zero_point = self._output["quantization"]
        return np.asarray((raw.astype(np.float32) - zero_point) * scale, np.float32)


class OnnxModel:
    """An .onnx or .ort file in onnxruntime's CPU provider, batch 1."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        tensor = self._session.get_inputs()[0]
        self._name, self._dtype = tensor.name, np.uint8 if tensor.type == "tensor(uint8)" else np.float32
        self.size = tuple(map(int, tensor.shape[1:3]))
        self._pixels = np.zeros((1, *self.size, 3), self._dtype)
        self._answer = np.zeros(0, np.float32)

    def prepare(self, pixels: np.ndarray[Any, Any]) -> None:
        """Bind (H, W, 3) uint8 RGB pixels."""
        self._pixels = np.ascontiguousarray(pixels[np.newaxis], self._dtype)

    def invoke(self) -> None:
        """Run once."""
        self._answer = self._session.run(None, {self._name: self._pixels})[0][0]

    def answer(self) -> np.ndarray[Any, Any]:
        """Probabilities of the last run, (C,) float32."""
        return np.asarray(self._answer, np.float32)


def open_model(path: Path, threads: int) -> Any:
    """Load a model; the runtimes' errors become one line."""
    refusals: tuple[type[Exception], ...] = (ValueError, RuntimeError, OSError)
    if path.suffix != ".tflite":  # onnxruntime's errors have no common base
        state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        refusals += tuple(getattr(state, name) for name in ORT_ERRORS if hasattr(state, name))
    try:
        return TFLiteModel(path, threads) if path.suffix == ".tflite" else OnnxModel(path, threads)
    except refusals as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise KitError(f"expected a model that this runtime can load, but {path.name} fails: {reason[:160]}") from None


def read_kit() -> dict[str, Any]:
    """kit.json beside this file, whole."""
    try:
        content = (KIT / "kit.json").read_bytes()
        digest = (KIT / "SHA256SUMS").read_text().split()[0]  # kit.json comes first
    except (OSError, IndexError, UnicodeDecodeError) as error:
        raise UsageError(f"expected a kit around {Path(__file__).name}, but {error}; unpack it whole") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise KitError("expected kit.json as it was packed, but it is changed; unpack it again")
    kit: dict[str, Any] = json.loads(content)
    if kit["schema_version"] != SCHEMA_VERSION:
        raise UsageError(f"expected a kit of version {SCHEMA_VERSION}, but got {kit['schema_version']}")
    return kit


def runnable(kit: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The artefacts whose runtime works here, and the others with the reason."""
    problems = {runtime: problem(runtime) for runtime in sorted({a["runtime"] for a in kit["artefacts"]})}
    if all(problems.values()):
        why = " and ".join(map(str, problems.values()))
        raise UsageError(f"expected a runtime for the kit's models, but {why}; install one as README.md says")
    there = [artefact for artefact in kit["artefacts"] if not problems[artefact["runtime"]]]
    skipped = [{"name": a["name"], "reason": problems[a["runtime"]]} for a in kit["artefacts"] if a not in there]
    return there, skipped


def problem(runtime: str) -> str | None:
    """Why a runtime cannot be used; None if it can."""
    module, package = PACKAGES[runtime]
    if not importlib.util.find_spec(module):
        return f"{package} is not installed"
    try:
        importlib.import_module(MODULES[runtime])
    except ImportError as error:
        return f"{package} cannot be imported ({str(error).strip().splitlines()[0][:160]})"
    return None


def require_signed(artefacts: Sequence[dict[str, Any]], public_key: str | None) -> None:
    """Refuse models without a signature by this key; minisign looks, so that no cryptography is written here."""
    if public_key is None:
        return
    if not Path(public_key).is_file():
        raise UsageError(f"expected a public key of minisign, but {public_key} is no file; check --public-key")
    for artefact in artefacts:
        command = ["minisign", "-Vqm", str(KIT / artefact["file"]), "-p", public_key]
        try:
            looked = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise UsageError(f"expected the program minisign, but {error}; install it as README.md says") from None
        if looked.returncode:
            said = (looked.stderr.strip().splitlines() or ["minisign says no more"])[0]
            raise KitError(f"expected {artefact['file']} to be signed by this key, but it is not: {said[:160]}")


def verify(kit: dict[str, Any], artefacts: Sequence[dict[str, Any]], threads: int) -> list[dict[str, Any]]:
    """Check every file's SHA-256, then every artefact's answers against those of the machine that made the kit."""
    for file, digest in kit["files"].items():
        path = KIT / file
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise KitError(f"expected {file} as kit.json describes it, but it is missing or changed; unpack it again")
    reports = []
    for artefact in artefacts:
        model, worst = open_model(KIT / artefact["file"], threads), 0.0
        for image, expected in zip(kit["images"], artefact["expected"], strict=True):
            model.prepare(load_image(KIT / image["rgb"], model.size))
            model.invoke()
            answer, wanted = model.answer(), np.asarray(expected, np.float32)
            off = float(np.abs(answer - wanted).max())
            ahead = float(np.diff(np.sort(wanted)[-2:])[0])
            swapped = int(answer.argmax()) != int(wanted.argmax()) and ahead > artefact["tolerance"]
            if not off <= artefact["tolerance"] or swapped:
                raise KitError(
                    f"expected answers of {artefact['name']} for {image['rgb']} within {artefact['tolerance']:g} of "
                    f"the kit's, but one is off by {off:.3g}; this processor or runtime computes it differently"
                )
            worst = max(worst, off)
        reports.append({"name": artefact["name"], "images": len(kit["images"]), "max_difference": round(worst, 6)})
    return reports


def read_line(path: str) -> str | None:
    """First line of a file of the kernel; None where there is none."""
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ").splitlines()[0].strip("\0 ")
    except (OSError, IndexError):
        return None


def condition(sys_root: str = "/sys") -> dict[str, Any]:
    """Governor, frequency, temperature and throttling now; None for what this machine does not tell."""
    policies = sorted(glob.glob(f"{sys_root}/devices/system/cpu/cpu[0-9]*/cpufreq"))
    governors = sorted({line for line in (read_line(f"{p}/scaling_governor") for p in policies) if line})
    khz = [int(line) for line in (read_line(f"{p}/scaling_cur_freq") for p in policies) if line and line.isdigit()]
    zones = {}
    for zone in sorted(glob.glob(f"{sys_root}/class/thermal/thermal_zone*")):
        kind, value = read_line(f"{zone}/type"), read_line(f"{zone}/temp")
        if kind and value and value.lstrip("-").isdigit():
            zones[f"{Path(zone).name} {kind}"] = int(value) / 1000
    lines = map(read_line, glob.glob(f"{sys_root}/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"))
    counts = [int(line) for line in lines if line and line.isdigit()]
    states = []
    for device in glob.glob(f"{sys_root}/class/thermal/cooling_device*"):
        kind, state = read_line(f"{device}/type") or "", read_line(f"{device}/cur_state")
        if (kind == "Processor" or "cpufreq" in kind) and state and state.isdigit():
            states.append(int(state))
    return {
        "governor": ", ".join(governors) or None,
        "frequency_mhz": [round(value / 1000) for value in khz] or None,
        "temperature_c": zones or None,
        "throttled_flags": vcgencmd_throttled(),
        "throttle_count": sum(counts) if counts else None,
        "cooling_state": sum(states) if states else None,  # above 0: the kernel holds the clock down
    }


def processor_seconds() -> tuple[float, float, float] | None:
    """Now, and processor time of the whole machine, and of this process and its children that ended; None if untold."""
    counts = (read_line("/proc/stat") or "").split()
    if len(counts) < 8 or counts[0] != "cpu":
        return None
    user, nice, system, _idle, _waiting, irq, softirq = map(int, counts[1:8])
    everything, own = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK"), os.times()
    return time.monotonic(), everything, own.user + own.system + own.children_user + own.children_system


def cores_of_others(before: tuple[float, ...] | None, after: tuple[float, ...] | None) -> float | None:
    """How many cores other programs kept busy between two `processor_seconds`, in the mean."""
    if before is None or after is None:
        return None
    seconds, everything, own = (late - early for early, late in zip(before, after, strict=True))
    return round(max(0.0, everything - own) / seconds, 2)


def vcgencmd_throttled() -> str | None:
    """A Raspberry Pi's flags, such as 0x50000: bits 0-3 now, 16-19 since boot (voltage, cap, throttled, soft limit)."""
    try:
        told = subprocess.run(["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip().partition("=")[2] or None


def machine() -> dict[str, Any]:
    """Processor, cores, memory, operating system."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}  # last core's
        memory_kb = int(re.findall(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[0])
    except (OSError, IndexError):
        facts, memory_kb = {}, 0
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return {
        "board": read_line("/proc/device-tree/model"),
        "cpu": facts.get("model name") or platform.processor() or None,
        "cpu_flags": [flag for flag in TELLING_FLAGS if flag in flags],
        "architecture": platform.machine(),
        "cores": cores(),
        "memory_gb": round(memory_kb / 2**20, 1) or None,
        "system": f"{platform.system()} {platform.release()}",
    }


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Versions of Python, numpy and the runtimes that are here."""
    found = {"python": platform.python_version()}
    for package in ("numpy", *(package for _, package in PACKAGES.values())):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def peak_rss_mb() -> float:
    """Most memory this process has had, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count the memory of the parent, shared until the child starts its program
        return int(re.findall(r"VmHWM:\s*(\d+)", status.read_text())[0]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


class Worker:
    """A process that holds one model and measures it on command."""

    def __init__(self, artefact: dict[str, Any], image: str, threads: int) -> None:
        self.artefact, self.threads = artefact, threads
        self.samples: list[list[float]] = []
        command = [sys.executable, __file__, "_worker", str(KIT / artefact["file"]), str(KIT / image), str(threads)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self.hello = self._read()

    def ask(self, command: str) -> Any:
        """Send a command, return its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the missing answer tells more
        return self._read()

    def kill(self) -> None:
        """End the process however it is."""
        self._process.kill()
        self._process.communicate()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"its process ended with code {self._process.wait()}"}
        if "error" in answer:
            raise KitError(
                f"expected a measurement of {self.artefact['name']}, but {answer['error']}; check free memory"
            )
        return answer


def serve(path: str, image: str, threads: str) -> int:
    """The worker's side: load, run once, then measure until told to stop."""
    answers = os.fdopen(os.dup(1), "w")  # runtimes write to the process's output as they please
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    importlib.import_module(MODULES["litert" if path.endswith(".tflite") else "onnxruntime"])
    before, started = peak_rss_mb(), time.perf_counter()
    try:
        model = open_model(Path(path), int(threads))
    except KitError as error:
        say({"error": str(error)})
        return 1
    loaded = time.perf_counter()
    model.prepare(load_image(Path(image), model.size))
    first = time.perf_counter()
    model.invoke()
    first_ms = 1e3 * (time.perf_counter() - first)
    say({"load_ms": 1e3 * (loaded - started), "first_ms": first_ms, "rss_before_load_mb": before})
    for line in sys.stdin:
        if line.strip() == "stop":
            break
        warmup, samples = map(int, line.split())
        times, warm = [], time.perf_counter() + WARMUP_S
        while warmup > 0 or time.perf_counter() < warm:
            model.invoke()
            warmup -= 1
        for _ in range(samples):
            started = time.perf_counter()
            model.invoke()
            times.append(1e3 * (time.perf_counter() - started))
        say({"samples_ms": times})
    say({"peak_rss_mb": peak_rss_mb()})
    return 0


def answer(path: str) -> int:
    """The side of `tledge check --on` that answers: for each line `IMAGES FROM TO`, probabilities of raw pixels.

    FROM holds IMAGES times S x S x 3 bytes, TO then as many rows of float32; its name is the answer on stdout.
    """
    answers = os.fdopen(os.dup(1), "w")  # runtimes write to the process's output as they please
    os.dup2(2, 1)
    model = open_model(Path(path), cores())
    print(json.dumps({"machine": machine(), "versions": versions()}), file=answers, flush=True)
    for line in sys.stdin:
        count, source, target = line.split()
        pixels = np.fromfile(source, np.uint8).reshape(int(count), *model.size, 3)
        rows = []
        for image in pixels:
            model.prepare(image)
            model.invoke()
            rows.append(model.answer().copy())
        np.stack(rows).astype("<f4").tofile(target)
        print(json.dumps({"answered": target}), file=answers, flush=True)
    return 0


def measure(kit: dict[str, Any], artefacts: Sequence[dict[str, Any]], threads: int, args: Any) -> list[Any]:
    """Go through all artefacts in turn, round by round."""
    workers: list[Worker] = []
    try:
        for artefact in artefacts:
            workers.append(Worker(artefact, kit["images"][0]["rgb"], threads))
        for _ in range(args.rounds):
            for worker in workers:
                worker.samples.append(worker.ask(f"{args.warmup} {args.samples}")["samples_ms"])
        return [summary(worker, worker.ask("stop")["peak_rss_mb"]) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()


def summary(worker: Worker, peak_mb: float) -> dict[str, Any]:
    """One result, in the words of tledge's bench.json."""
    artefact, flat = worker.artefact, np.concatenate([np.asarray(part) for part in worker.samples])
    p50, p90, p99 = np.percentile(flat, (50, 90, 99))
    latency = {"p50": p50, "p90": p90, "p99": p99, "mean": flat.mean(), "min": flat.min()}
    rounds = np.asarray(worker.samples)  # bootstrap of whole rounds: their samples belong together
    drawn = np.random.default_rng(0).integers(0, len(rounds), (1000, len(rounds)))
    interval = np.percentile(np.median(rounds[drawn], axis=(1, 2)), (2.5, 97.5))
    return {
        **{key: artefact[key] for key in ("name", "runtime", "precision", "size_bytes", "sha256")},
        "batch": 1,
        "threads": worker.threads,
        "n": len(flat),
        "latency_ms": {key: round(float(value), 4) for key, value in latency.items()},
        "p50_interval_95": [round(float(value), 4) for value in interval],
        "load_ms": round(worker.hello["load_ms"], 2),
        "first_ms": round(worker.hello["first_ms"], 2),
        "peak_rss_mb": round(peak_mb, 1),
        "model_rss_mb": round(peak_mb - worker.hello["rss_before_load_mb"], 1),
        "samples_ms": [[round(value, 4) for value in part] for part in worker.samples],
    }


def bench(args: argparse.Namespace) -> int:
    """Verify, measure, print JSON."""
    kit = read_kit()
    artefacts, skipped = runnable(kit)
    threads = args.threads or [count for count in kit["threads"] if count <= cores()] or [cores()]
    if max(threads) > cores():
        raise UsageError(f"expected --threads of at most {cores()}, the cores available here, but got {max(threads)}")
    require_signed(artefacts, args.public_key)
    verified = verify(kit, artefacts, max(threads))
    before, busy = condition(), processor_seconds()
    results = [result for count in threads for result in measure(kit, artefacts, count, args)]
    other_cores = cores_of_others(busy, processor_seconds())
    limit_mb = (kit["target"] or {}).get("memory_mb")
    over = [
        f"expected at most {limit_mb:g} MB of memory, but {r['name']} on {r['threads']} threads took {taken_mb:.0f} MB"
        for r in results
        if limit_mb is not None and (taken_mb := r["peak_rss_mb"] * 2**20 / 1e6) > limit_mb
    ]
    report = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "kit": {"model_sha256": kit["model_sha256"], "target": kit["target"]},
        "environment": {
            "machine": machine(),
            "versions": versions(),
            "before": before,
            "after": condition(),
            "other_cores": other_cores,
        },
        "settings": {
            "batch": 1,
            **{key: getattr(args, key) for key in ("rounds", "samples", "warmup")},
            "warmup_ms": 1e3 * WARMUP_S,
        },
        "verified": verified,
        "skipped": skipped,
        "over_limits": over,
        "results": results,
    }
    print(json.dumps(report, indent=2))
    if over:
        raise KitError(over[0])
    return 0


def classify(args: argparse.Namespace) -> int:
    """Print the best classes of image files."""
    kit = read_kit()
    artefacts, skipped = runnable(kit)
    chosen = [artefact for artefact in artefacts if args.model in (None, artefact["name"])]
    if not chosen:
        why = next((f": {item['reason']}" for item in skipped if item["name"] == args.model), "")
        raise UsageError(
            f"expected --model as one of {', '.join(a['name'] for a in artefacts)}, but got {args.model!r}{why}"
        )
    require_signed(chosen[:1], args.public_key)
    size = kit["image_size_px"]  # a number for a square, [height, width] for anything else
    height, width = (size, size) if isinstance(size, int) else size
    images = [load_image(Path(image), (height, width), kit.get("resize", "stretch")) for image in args.images]
    model = open_model(KIT / chosen[0]["file"], cores())
    for path, pixels in zip(args.images, images, strict=True):
        model.prepare(pixels)
        model.invoke()
        answer = model.answer()
        best = np.argsort(-answer, kind="stable")[: args.top]
        print("\t".join(map(visible, [path, *(f"{kit['labels'][i]} {answer[i]:.4f}" for i in best)])))
    return 0


def load_image(path: Path, size: Sequence[int], mode: str = "stretch") -> np.ndarray[Any, Any]:
    """Pixels of an image file, resized by `mode`, or of a .rgb file of exactly the model's size, (height, width)."""
    height, width = size
    if not path.is_file():
        raise UsageError(f"expected an image, but {path} is no file; check the path")
    if path.suffix == ".rgb":
        pixels = np.fromfile(path, np.uint8)
        if pixels.size != height * width * 3:
            raise UsageError(
                f"expected {height} x {width} x 3 bytes in {path}, but it has {pixels.size}; resize it first"
            )
        return pixels.reshape(height, width, 3)
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise UsageError(f"expected Pillow to open {path.name}, but it is not installed; pass .rgb files") from None
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:  # on white, as in training
                white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            picture = np.asarray(upright.convert("RGB"), np.uint8)
    except Exception as error:  # noqa: BLE001 - what Pillow raises over a damaged file is documented nowhere
        raise UsageError(f"expected an image, but {path} cannot be read ({error})") from None
    from tledge_resize import resize_picture

    return resize_picture(picture, (height, width), mode)


def visible(text: str) -> str:
    """A name on one line, and no command of a terminal or of GitHub Actions."""
    shown = HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)
    return re.sub(r"^(\s*):(?=:)", r"\1\\:", shown).replace("##[", "#\\#[")


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, but got {text!r}")
    return int(text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def main() -> int:
    """Parse, run, turn errors into one line and an exit code."""
    if sys.argv[1:2] == ["_worker"]:
        return serve(*sys.argv[2:5])
    if sys.argv[1:2] == ["_answer"]:
        try:
            return answer(sys.argv[2])
        except KitError as error:
            print(f"tledge_device: {error}", file=sys.stderr)
            return 1
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("classify", help="name the classes of image files, or of raw .rgb files")
    one.add_argument("images", nargs="+", metavar="IMAGE")
    one.add_argument("--model", help="an artefact of the kit; default: the first that can run here")
    one.add_argument("--top", type=positive, default=3, help="classes to print for each (3)")
    two = commands.add_parser("bench", help="verify the kit, then measure its models; JSON on stdout")
    two.add_argument("--threads", type=positive, action="append", help="repeat for several; default: the kit's")
    two.add_argument("--rounds", type=positive, default=10, help="times through all models in turn (10)")
    two.add_argument("--samples", type=positive, default=5, help="measured runs per model and round (5)")
    two.add_argument(
        "--warmup", type=positive, default=2, help="runs before them that do not count, for 0.1 s or more (2)"
    )
    for command in (one, two):
        command.add_argument("--public-key", metavar="FILE", help="run models only if signed by this key of minisign")
    for stream in (sys.stdout, sys.stderr):  # labels are in any script, terminals are not
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        args = parser.parse_args()
        return classify(args) if args.command == "classify" else bench(args)
    except (KitError, UsageError) as error:
        print(f"tledge_device: {visible(str(error))}", file=sys.stderr)
        return 1 if isinstance(error, KitError) else 2


if __name__ == "__main__":
    sys.exit(main())
