"""What this machine is and which versions are installed: every number tledge reports carries it."""

from __future__ import annotations

import csv
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from tledge import __version__
from tledge.core.records import Record

PACKAGES = (
    "tensorflow",
    "keras",
    "ai-edge-litert",
    "tflite-micro",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorflow-model-optimization",
    "tf-keras",
    "numpy",
    "pillow",
)

_DRIVER_S = 20
# Instruction sets that decide how fast float and int8 kernels can be.
_TELLING_FLAGS = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "asimdhp",
    "i8mm",
    "bf16",
    "sve",
)


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that shape a result."""
    found = {"tledge": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def cpu() -> tuple[str, tuple[str, ...]]:
    """The processor's model name and those of its flags that matter for inference."""
    known = _proc_cpuinfo()
    if known.get("model name") and known.get("flags"):
        name, flags = known["model name"], set(known["flags"].split())
    else:
        import cpuinfo

        info = cpuinfo.get_cpu_info()
        name = str(info.get("brand_raw") or info.get("hardware_raw") or platform.machine())
        flags = set(info.get("flags", ()))
    return name, tuple(flag for flag in _TELLING_FLAGS if flag in flags)


def _proc_cpuinfo() -> dict[str, str]:
    """What Linux says of its first processor; the library reads it too, but then measures a frequency for a second."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


@dataclass(frozen=True)
class Gpu:
    """One of NVIDIA's; `capability` is the compute capability, major and minor."""

    name: str
    memory_gb: float
    capability: tuple[int, int]


def gpus() -> tuple[Gpu, ...]:
    """NVIDIA's GPUs as their driver lists them. Whether TensorFlow has the libraries to use them is another matter."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DRIVER_S, check=True)
        rows = [[cell.strip() for cell in row] for row in csv.reader(done.stdout.splitlines())]
        return tuple(
            Gpu(name, round(float(mib) / 1024, 1), (int(capability.split(".")[0]), int(capability.split(".")[1])))
            for name, mib, capability in rows
        )
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return ()  # a program without a driver prints an error in its place


def command_line(call: str) -> str:
    """The shell command that this process is; `call` where it is a Python program that uses tledge."""
    by_shell = Path(sys.argv[0]).name in ("tledge", "__main__.py")
    if not by_shell:
        return f"{call}(…) in Python"
    # It is kept as text, which not every name of a file is.
    return shlex.join(["tledge", *sys.argv[1:]]).encode(errors="backslashreplace").decode()


def available_cores() -> int:
    """Cores this process may use, which a container or taskset can make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Machine(Record, frozen=True, kw_only=True):
    """Processor (with those of its flags that matter for inference), usable cores, memory and operating system."""

    cpu: str
    cpu_flags: tuple[str, ...]
    architecture: str
    cores: int
    memory_gb: float
    system: str


def machine() -> Machine:
    """This machine."""
    import psutil

    name, flags = cpu()
    return Machine(
        cpu=name,
        cpu_flags=flags,
        architecture=platform.machine(),
        cores=available_cores(),
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
    )
