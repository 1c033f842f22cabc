"""What `robustness.py` damages, and the commands that read it: a small run with everything in it, made by tledge.

A net of two convolutions on handwritten digits is adopted, exported, checked, benched, diagnosed, signed, made smaller
by two methods and by a search; beside it stand a baseline, a recipe, a target, tables of labels, arrays, Parquet,
pictures, models without a run, a search to go on with, a kit, keys and a trunk of the user's.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from robustness_commands import Place, ended

QUICK = ("--rounds", "2", "--samples", "2", "--warmup", "1", "--threads", "1")
INT8 = "run/export/tflite-int8.tflite"
_KERAS = ("--input", "0..255")
_TRAIN = ("train", "digits", "--technique", "feature-extraction", "--image-size", "32", "--epochs", "2")
_ONE = ("--artefact", INT8, "--on-undecided", "pass")


@dataclass(frozen=True)
class Command:
    """A command, run where the material is.

    `makes` are the files that it writes, compared with those of undamaged material. `codes` are exit codes besides 0
    and 2 that can be right. `kills` is how often it is among those that are killed, meet full disks or each other.
    """

    words: tuple[str, ...]
    makes: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    kills: int = 0
    before: str = ""


_FOREIGN = ("--data", "digits", "--labels", "names.txt", "--out", "made", "--on-undecided", "pass")
# Long options of one command stand here for what it reads, not for all that it can do.
COMMANDS: dict[str, Command] = {
    "doctor": Command(("doctor", "run"), codes=(1,)),
    "report": Command(("report", "run"), ("run/report.md", "run/report.html", "run/MODEL_CARD.md"), kills=6),
    "report goal": Command(("report", "goal"), ("goal/report.md", "goal/report.html")),
    "report low": Command(("report", "low"), ("low/report.md", "low/report.html")),
    "doctor low": Command(("doctor", "low"), codes=(1,)),
    "doctor qat": Command(("doctor", "qat"), codes=(1,)),
    "inspect run": Command(("inspect", "run")),
    "predict run": Command(("predict", "run", "photo.png", "--json")),
    "predict int8": Command(("predict", INT8, "photo.png", "--json")),
    "inspect int8": Command(("inspect", INT8, "--json")),
    "check": Command(("check", "run", *_ONE), ("run/check.json", "run/predictions.csv"), codes=(1,), kills=4),
    "check low": Command(("check", "low", "--on-undecided", "pass"), ("low/check.json",), codes=(1,)),
    "check baseline": Command(
        ("check", "run", *_ONE, "--baseline", "base.json"), ("run/check.json", "run/predictions.csv"), codes=(1,)
    ),
    "check table": Command(
        ("check", "run", *_ONE, "--data", "flat", "--labels-from", "table.csv"), ("run/check.json",), codes=(1,)
    ),
    "baseline": Command(("baseline", "save", "run", "-o", "made.json"), ("made.json",), kills=3),
    "kit": Command(("kit", "run", "-o", "made.zip"), ("made.zip",), codes=(1,), kills=6),
    "kit target": Command(("kit", "run", "--target", "board.toml", "-o", "made.zip"), ("made.zip",), codes=(1,)),
    "export": Command(("export", "run", "--recipe", "tflite-float32", "--recipe", "onnx-float32")),
    "export int8": Command(
        ("export", "run", "--force", "--recipe", "tflite-int8", "--recipe", "onnx-int8"),
        ("run/export/tflite-int8.tflite", "run/export/onnx-int8.onnx"),
        codes=(1,),
        kills=5,
    ),
    "export qat": Command(("export", "qat", "--recipe", "tflite-int8"), ("qat/export/tflite-int8.tflite",), codes=(1,)),
    "export recipe": Command(("export", "run", "--recipe", "mine.toml"), ("run/export/mine.tflite",), codes=(1,)),
    "export target": Command(("export", "run", "--target", "board.toml"), (), codes=(1,)),
    "diagnose": Command(("diagnose", "run", INT8), ("run/diagnosis/tflite-int8.json",), codes=(1,), kills=2),
    "compare": Command(
        ("compare", "run", "low", "--json", "made.json", "--html", "made.html"), ("made.json", "made.html"), kills=3
    ),
    "targets": Command(("targets", "board.toml")),
    "catalogue": Command(
        ("weights", "list"),
        before="import pathlib, tledge.model.catalogue as c\nc.catalogue_folder = lambda: pathlib.Path('catalogue')",
    ),
    "weights list": Command(("weights", "list")),
    "weights show": Command(("weights", "show", "mine")),
    "weights add": Command(("weights", "add", "other", "trunk.h5"), ("user/tledge/weights/other.h5",), kills=2),
    "select": Command(
        ("select", "digits", "--image-size", "32", "--images", "12", "--candidate", "vgg16-imagenet"), kills=1
    ),
    "train auto": Command(
        (
            *("train", "digits", "--technique", "auto", "--weights", "auto", "--selection", "select.json"),
            *("--image-size", "32", "--epochs", "1", "--out", "made"),
        ),
    ),
    "train mine": Command(
        (*_TRAIN, "--weights", "mine", "--out", "made"), ("made/model.keras", "made/history.csv", "made/split.csv")
    ),
    "train": Command((*_TRAIN, "--out", "made"), ("made/model.keras", "made/history.csv", "made/split.csv"), kills=1),
    "adopt": Command(
        ("adopt", "net.keras", *_KERAS, "--data", "digits", "--out", "made"), ("made/model.keras",), kills=4
    ),
    "adopt h5": Command(("adopt", "net.h5", *_KERAS, "--data", "digits", "--out", "made"), ("made/model.keras",)),
    "adopt arrays": Command(
        ("adopt", "net.keras", *_KERAS, "--data", "arrays.npz", "--out", "made"), ("made/split.csv",), kills=3
    ),
    "adopt IDX": Command(
        ("adopt", "net.keras", *_KERAS, "--data", "idx", "--out", "made"), ("made/split.csv",), kills=2
    ),
    "adopt metadata": Command(("adopt", "net.keras", *_KERAS, "--data", "hf", "--out", "made"), ("made/split.csv",)),
    "adopt lines": Command(
        ("adopt", "net.keras", *_KERAS, "--data", "flat", "--labels-from", "table.jsonl", "--out", "made"),
        ("made/split.csv",),
    ),
    "adopt labels": Command(
        ("adopt", "net.keras", *_KERAS, "--data", "digits", "--labels", "names.txt", "--out", "made"),
        ("made/split.csv", "made/labels.txt"),
    ),
    "inspect tflite": Command(("inspect", "foreign.tflite", "--json")),
    "inspect onnx": Command(("inspect", "foreign.onnx", "--json")),
    "inspect keras": Command(("inspect", "net.keras", *_KERAS, "--json")),
    "inspect h5": Command(("inspect", "net.h5", *_KERAS, "--json")),
    "predict tflite": Command(("predict", "foreign.tflite", "photo.png", "--json")),
    "predict onnx": Command(("predict", "foreign.onnx", "photo.png", "--json")),
    "predict keras": Command(("predict", "net.keras", "photo.png", *_KERAS, "--json")),
    "predict h5": Command(("predict", "net.h5", "photo.png", *_KERAS, "--json")),
    "check foreign": Command(
        ("check", "--reference", "net.keras", "--artefact", "foreign.onnx", "--input", "net.keras=0..255", *_FOREIGN),
        ("made/check.json",),
        codes=(1,),
    ),
    **{
        f"predict {kind}": Command(("predict", INT8, f"photo.{kind}", "--json"))
        for kind in ("png", "jpg", "webp", "gif", "bmp", "tif")
    },
    "bench files": Command(("bench", INT8, "run/export/onnx-int8.onnx", *QUICK, "--json", "made.json"), kills=1),
    "bench": Command(("bench", "run", "--artefact", INT8, *QUICK), kills=1),
    "bench foreign": Command(("bench", "foreign.tflite", "foreign.onnx", *QUICK)),
    "bench there": Command(
        (
            *("bench", "run", "--on", "ssh://board", "--ssh-config", "../ssh/config"),
            *("--remote-python", sys.executable, *QUICK),
        ),
        kills=1,
    ),
    "low-rank": Command(
        (
            *("optimize", "run", "--size-ratio", "1.5", "--epochs", "2", "--pictures", "32", "--last-layer", "none"),
            *("--image-size", "32", "--out", "made"),
        ),
        kills=1,
    ),
    "qat": Command(("optimize", "run", "--method", "qat", "--epochs", "2", "--out", "made"), kills=1),
    "search": Command(
        ("optimize", "run", "--goal", "drop < 0.5, size < 100 kB", "--time-budget", "0.1", "--out", "made"), kills=1
    ),
    "search again": Command(
        (*("optimize", "run", "--goal", "drop < 0.5, size < 100 kB", "--time-budget", "0.1", "--out", "kept"),),
    ),
    "sign": Command(("sign", INT8, "--key", "release.key")),
    "verify": Command(("verify", INT8, "--public-key", "release.pub"), codes=(1,)),
    "check unlabelled": Command(("check", "run", *_ONE, "--unlabelled", "more"), ("run/check.json",), codes=(1,)),
    "predict saved": Command(("predict", "saved", "photo.png", *_KERAS, "--json")),
    "adopt parquet": Command(
        ("adopt", "net.keras", *_KERAS, "--data", "digits.parquet", "--out", "made"), ("made/split.csv",)
    ),
    "predict external": Command(("predict", "external/net.onnx", "photo.png", "--json")),
    "kit program": Command(("@", "kit/tledge_device.py", "bench", *QUICK[:6]), codes=(1,)),
}


@dataclass(frozen=True)
class Reader:
    """A file and the commands that read it.

    `bound` means that something else tells what is in it (a digest, a checksum of its format): damage must be said, or
    must not change what comes out. Of other files only what is not their format can be told from what was meant.
    """

    file: str
    commands: tuple[str, ...]
    weight: int = 4
    bound: bool = False


READERS = (
    Reader(
        "run/run.json",
        (
            *("doctor", "report", "inspect run", "predict run", "check", "kit", "export", "export int8", "compare"),
            *("baseline", "diagnose", "doctor", "report", "inspect run", "compare", "baseline"),
        ),
        24,
    ),
    Reader("run/split.csv", ("doctor", "report", "check", "kit", "export int8"), 14, bound=True),
    Reader("run/labels.txt", ("doctor", "check", "kit", "report"), 8, bound=True),
    Reader("run/history.csv", ("report", "doctor", "compare"), 8),
    Reader("run/predictions.csv", ("report", "baseline", "doctor", "compare"), 10, bound=True),
    Reader("run/calibration.json", ("doctor", "check", "export int8", "diagnose"), 10),
    Reader("run/check.json", ("report", "doctor", "baseline", "compare", "kit"), 14),
    Reader("run/bench.json", ("report", "compare", "doctor"), 12),
    Reader("run/diagnosis/tflite-int8.json", ("report",), 8),
    Reader("run/export/tflite-int8.json", ("report", "doctor", "check", "kit", "export", "predict int8"), 12),
    Reader("run/export/onnx-float32.json", ("report", "doctor", "export", "kit"), 8),
    Reader(
        INT8, ("doctor", "report", "check", "predict int8", "inspect int8", "kit", "diagnose", "verify"), 10, bound=True
    ),
    Reader("run/export/onnx-int8.onnx", ("doctor", "report", "kit"), 6, bound=True),
    Reader("run/model.keras", ("doctor", "check", "predict run", "export int8", "kit", "report"), 8, bound=True),
    Reader("run/model_card.toml", ("report",), 6),
    Reader("low/run.json", ("report low", "doctor low", "compare"), 8),
    Reader("low/reference.keras", ("doctor low", "check low"), 3, bound=True),
    Reader("qat/quantization.json", ("doctor qat", "export qat"), 8, bound=True),
    Reader("goal/search.json", ("report goal",), 10),
    Reader("base.json", ("check baseline",), 10),
    Reader("select.json", ("train auto",), 2),
    Reader("mine.toml", ("export recipe",), 10),
    Reader("board.toml", ("targets", "targets", "targets", "export target", "kit target"), 10),
    Reader("catalogue/vgg16-bsds500.toml", ("catalogue",), 8),
    Reader("user/tledge/weights/mine.json", ("weights list", "weights show"), 8),
    Reader("user/tledge/weights/mine.h5", ("train mine",), 1, bound=True),
    Reader("trunk.h5", ("weights add",), 2),
    Reader("net.keras", ("inspect keras", "predict keras", "adopt", "check foreign"), 14, bound=False),
    Reader("net.h5", ("inspect h5", "predict h5", "adopt h5"), 14),
    Reader("foreign.tflite", (*["inspect tflite", "predict tflite"] * 4, "bench foreign"), 12),
    Reader("foreign.onnx", ("inspect onnx", "predict onnx", "check foreign"), 12),
    Reader("names.txt", ("adopt labels", "check foreign"), 5),
    Reader("flat/table.csv", ("check table",), 8),
    Reader("table.jsonl", ("adopt lines",), 5),
    Reader("table.csv", ("check table",), 6),
    Reader("hf/metadata.csv", ("adopt metadata",), 6),
    Reader("arrays.npz", ("adopt arrays",), 8),
    Reader("idx/train-images-idx3-ubyte.gz", ("adopt IDX",), 5),
    Reader("idx/train-labels-idx1-ubyte", ("adopt IDX",), 5),
    Reader("digits/digit 0/000.png", ("check", "kit", "doctor", "adopt"), 6),
    *(Reader(f"photo.{kind}", (f"predict {kind}",), 6) for kind in ("png", "jpg", "webp", "gif", "bmp", "tif")),
    *(Reader(f"kit/{name}", ("kit program",), 3, bound=True) for name in ("kit.json", "labels.txt", "images/00.rgb")),
    *(
        Reader(f"kit/models/{name}", ("kit program",), 3, bound=True)
        for name in ("tflite-int8.tflite", "onnx-int8.onnx")
    ),
    Reader("kept.search/search.json", ("search again",), 2),
    Reader("release.key", ("sign",), 4),
    Reader("release.pub", ("verify",), 4),
    Reader(f"{INT8}.minisig", ("verify",), 4),
    Reader("more/0.png", ("check unlabelled",), 4),
    Reader("saved/saved_model.pb", ("predict saved",), 3),
    Reader("saved/variables/variables.data-00000-of-00001", ("predict saved",), 3),
    Reader("digits.parquet", ("adopt parquet",), 4),
    Reader("external/net.onnx", ("predict external",), 3),
    Reader("external/weights", ("predict external",), 3),
)

_BOARD = """title = "A board"
hardware = "4 cores"
quantization = "int8"
threads = [1]

[[artefacts]]
recipe = "tflite-int8"
input = "uint8"
output = "uint8"
why = "it is small"

[limits]
size_mb = 10
memory_mb = 512
why = "chosen"

[[sources]]
title = "its manual"
url = "https://example.org/manual"
"""
_RECIPE = """format = "tflite"
precision = "int8"

[calibration]
images = 40
method = "percentile"

[check]
max_drop = 0.5
"""
_CARD = """license = "apache-2.0"
intended_use = "Digits on paper."
"""


def _in_a_process(work: Callable[[], None]) -> None:
    """Run what computes in a process of its own, so that this one stays fit to fork."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - a fork must never go on with what its parent does
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("the material could not be made")


def _pictures_and_nets(folder: Path) -> None:
    import keras
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels, pixels = [], []
    for label in (0, 1, 7):
        (folder / f"digits/digit {label}").mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(digits.target == label)[:24]):
            picture = np.round(digits.images[index] * (255 / 16)).astype(np.uint8)
            image = Image.fromarray(picture).resize((40, 40))
            image.save(folder / f"digits/digit {label}/{number:03d}.png")
            labels.append(label)
            pixels.append(np.asarray(image))
    for kind in ("png", "jpg", "webp", "gif", "bmp", "tif"):
        image.convert("RGB").save(folder / f"photo.{kind}")
    (folder / "more").mkdir()
    for number, eights in enumerate(digits.images[digits.target == 8][:12]):
        Image.fromarray((eights * 15).astype(np.uint8)).resize((40, 40)).save(folder / f"more/{number}.png")
    names = [f"digit {label}" for label in (0, 1, 7)]
    (folder / "names.txt").write_text("\n".join(names) + "\n")
    grey, which = np.stack(pixels), np.array(labels)
    for name in ("flat", "hf", "idx"):
        (folder / name).mkdir()
    rows = []
    for number, (picture, label) in enumerate(zip(grey, labels, strict=True)):
        for name in ("flat", "hf"):
            Image.fromarray(picture).save(folder / f"{name}/{number:03d}.png")
        rows.append((f"{number:03d}.png", f"digit {label}"))
    text = "".join(f"{path},{label}\n" for path, label in rows)
    (folder / "table.csv").write_text("path,label\n" + text)
    (folder / "hf/metadata.csv").write_text("file_name,label\n" + text)
    (folder / "table.jsonl").write_text("".join(json.dumps({"path": p, "label": c}) + "\n" for p, c in rows))
    np.savez_compressed(folder / "arrays.npz", x=grey, y=np.array([f"digit {label}" for label in labels]))
    import gzip

    def header(*shape: int) -> bytes:
        return bytes((0, 0, 8, len(shape))) + b"".join(size.to_bytes(4, "big") for size in shape)

    with gzip.open(folder / "idx/train-images-idx3-ubyte.gz", "wb") as stream:
        stream.write(header(*grey.shape) + grey.tobytes())
    index = np.searchsorted([0, 1, 7], which).astype(np.uint8)
    (folder / "idx/train-labels-idx1-ubyte").write_bytes(header(len(index)) + index.tobytes())
    (folder / "board.toml").write_text(_BOARD)
    (folder / "mine.toml").write_text(_RECIPE)
    keras.utils.set_random_seed(1)
    net = keras.Sequential(
        [
            *(keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255)),
            *(keras.layers.Conv2D(64, 3, padding="same", activation="relu"), keras.layers.MaxPooling2D()),
            *(keras.layers.Conv2D(64, 3, padding="same", activation="relu"), keras.layers.MaxPooling2D()),
            *(keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")),
        ]
    )
    net.compile("adam", "sparse_categorical_crossentropy")
    small = [np.asarray(Image.fromarray(picture).convert("RGB").resize((32, 32))) for picture in grey]
    net.fit(np.stack(small).astype("float32"), index, epochs=12, verbose=0)
    net.save(folder / "net.keras")
    net.save(folder / "net.h5")
    net.export(folder / "saved", verbose=False)


def _other_forms(folder: Path) -> None:
    """A Parquet file of the digits, an ONNX file whose weights stand beside it, and a pair of keys."""
    minisign, onnx, pyarrow, parquet = map(importlib.import_module, ("minisign", "onnx", "pyarrow", "pyarrow.parquet"))
    rows = [line.split(",") for line in (folder / "table.csv").read_text().splitlines()[1:]]
    images = [{"bytes": (folder / "flat" / name).read_bytes(), "path": None} for name, _ in rows]
    table = pyarrow.table({"image": images, "label": [label for _, label in rows]})
    parquet.write_table(table, folder / "digits.parquet")
    (folder / "external").mkdir()
    model = onnx.load(folder / "run/export/onnx-float32.onnx")
    beside = folder / "external/net.onnx"
    onnx.save(model, beside, save_as_external_data=True, location="weights", size_threshold=1024)
    keys = minisign.KeyPair.generate()
    (folder / "release.key").write_bytes(bytes(keys.secret_key))
    (folder / "release.pub").write_bytes(bytes(keys.public_key))


def _trunk(folder: Path) -> None:
    import h5py
    import numpy as np

    from tledge.model.weight_files import KERNEL_SHAPES

    chance = np.random.default_rng(1)
    with h5py.File(folder / "trunk.h5", "w") as file:
        for layer, shape in KERNEL_SHAPES.items():
            scale = (2 / np.prod(shape[:3])) ** 0.5
            file.create_dataset(f"{layer}/kernel", data=(chance.normal(size=shape) * scale).astype("float32"))
            file.create_dataset(f"{layer}/bias", data=np.zeros(shape[3], "float32"))


def prepared(folder: Path) -> dict[str, float]:
    """Make the material once; returns how long each command takes on it, in seconds."""
    known = folder.with_suffix(".json")
    if known.is_file():
        found: dict[str, float] = json.loads(known.read_text())
        return found
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _in_a_process(lambda: _pictures_and_nets(folder))
    _in_a_process(lambda: _trunk(folder))
    place = Place(folder).made()

    def made(*words: str) -> None:
        done = ended(list(words), place)
        if done.code:
            raise SystemExit(f"the material could not be made: {' '.join(words)}: {done.code} {done.told}{done.out}")

    made("adopt", "net.keras", *_KERAS, "--data", "digits", "--out", "run")
    made("export", "run")
    for name in ("tflite", "onnx"):
        shutil.copy(folder / f"run/export/{name}-int8.{name}", folder / f"foreign.{name}")
    made("check", "run", "--on-undecided", "pass")
    made("diagnose", "run", INT8)
    made("bench", "run", *QUICK)
    made("baseline", "save", "run", "-o", "base.json")
    (folder / "run/model_card.toml").write_text(_CARD)
    made("optimize", "run", *COMMANDS["low-rank"].words[2:-1], "low")
    made("export", "low", "--recipe", "tflite-int8")
    made("check", "low", "--on-undecided", "pass")
    made("optimize", "run", *COMMANDS["qat"].words[2:-1], "qat")
    made("optimize", "run", *COMMANDS["search"].words[2:-1], "goal")
    made("select", "digits", "--image-size", "32", "--images", "12", "--out", "select.json")
    made("weights", "add", "mine", "trunk.h5")
    made("kit", "run", "-o", "kit.zip")
    shutil.unpack_archive(folder / "kit.zip", folder / "kit")
    shutil.copytree(Path(__file__).parents[1] / "catalogue", folder / "catalogue")
    shutil.copytree(folder / "goal.search", folder / "kept.search")
    _in_a_process(lambda: _other_forms(folder))
    made("sign", INT8, "--key", "release.key")
    shutil.copy(folder / "table.csv", folder / "flat/table.csv")
    made("report", "run")
    for name in ("tmp", "cache"):
        shutil.rmtree(folder / name)
    place.made()
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)
    known.write_text("{}")
    return {}
