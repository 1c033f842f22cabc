"""Does a check of many images stay within its memory, and what does it wait for?

    python benchmarks/check_streaming.py RUN DATA [N ...] > RESULTS.csv

For each N a folder with N links to the images of DATA is checked in a process of its own: the int8 file of RUN against
its Keras model. `peak_mb` is the memory of that process; `decode_s` is decoding alone, with all cores and nothing else
to do; `check_s` the whole command, which decodes beside the inference and starts TensorFlow. A check that waited for
its images would take about as long as decoding them. check.json of RUN is written over.
"""

from __future__ import annotations

import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tledge.runs.images import other_images
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import open_run

COUNTS = (1000, 10_000)
BATCH = 16


def linked(data: Path, folder: Path, count: int) -> None:
    """Fill a folder with links to the images, class by class in turn."""
    files = sorted(path for path in data.rglob("*") if path.is_file())
    for number in range(count):
        source = files[number % len(files)]
        target = folder / source.parent.name / f"{number:06d}{source.suffix}"
        target.parent.mkdir(exist_ok=True)
        os.symlink(source.resolve(), target)


def main() -> None:
    """Print one line per number of images."""
    run, data = Path(sys.argv[1]), Path(sys.argv[2])
    counts = [int(text) for text in sys.argv[3:]] or COUNTS
    manifest = read_manifest(open_run(run))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("n", "image_size_px", "peak_mb", "decode_s", "check_s", "artefact"))
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            linked(data, folder, count)
            images = other_images(folder, manifest, (manifest.image_size_px,))
            started = time.perf_counter()
            decoded = sum(len(batch[manifest.image_size_px]) for batch in images.batches(BATCH))
            decode_s = time.perf_counter() - started
            assert decoded == count
            artefact = open_run(run).artefact("tflite-int8", ".tflite")
            started = time.perf_counter()
            command = [sys.executable, "-m", "tledge", "check", str(run), "--artefact", str(artefact), "--data", name]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            check_s = time.perf_counter() - started
            if done.returncode not in (0, 1):  # whether the gates hold is not what is measured
                sys.exit(done.stderr)
        # The largest of all children so far: numbers of images go up, so each line is its own or shows no growth.
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        values = (f"{peak_mb:.0f}", f"{decode_s:.1f}", f"{check_s:.1f}", artefact.name)
        writer.writerow((count, manifest.image_size_px, *values))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
