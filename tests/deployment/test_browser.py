"""Kits that are web pages, and measurements in a browser: a real Chromium with the real runtimes of npm."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tledge
from tests.conftest import PHOTOS, run_cli
from tledge.conversion.recipe import recipe_folder
from tledge.core.errors import MissingDependencyError, RemoteError, SettingsError
from tledge.core.image_size import image_size
from tledge.core.types import Json, ResizeMode
from tledge.data.decode import decode, resize
from tledge.data.resizers import resizer_of
from tledge.deployment.browser_bench import files_of
from tledge.deployment.hosts import browser as browser_host
from tledge.deployment.hosts.browser import BrowserHost, open_page
from tledge.deployment.hosts.host import Access
from tledge.deployment.kit import kit_content
from tledge.deployment.web_runtimes import web_runtime_files

pytest.importorskip("tensorflow")

CHROMIUM, NPM, NODE = shutil.which("chromium"), shutil.which("npm"), shutil.which("node")
needs_npm = pytest.mark.skipif(NPM is None, reason="needs npm (Debian: npm)")
needs_browser = pytest.mark.skipif(not (CHROMIUM and NPM), reason="needs chromium and npm (Debian: chromium, npm)")
# One int8 and one float file, one for each runtime.
FILES = {"tflite-int8": "tflite-int8.tflite", "onnx-float32": "onnx-float32.onnx"}
# The same kernels, compiled otherwise: last digits of floats differ, and an integer may round to its neighbour.
LIMITS = {"tflite-int8": 0.02, "onnx-float32": 1e-4}
SIDE = 32


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's cache that keeps what npm brings for all tests of this module."""
    return tmp_path_factory.mktemp("npm")


@pytest.fixture(autouse=True)
def own_cache(own_folders: None, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(packages))


@pytest.fixture(scope="module")
def small_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The finished run with two files."""
    run = tmp_path_factory.mktemp("small") / "run"
    others = [path.name for path in (finished_run / "export").iterdir() if path.stem not in FILES]
    yield shutil.copytree(finished_run, run, ignore=lambda *_: others)
    shutil.rmtree(run)


@pytest.fixture(scope="module")
def site(small_run: Path, packages: Path) -> tuple[dict[str, bytes | Path], Json]:
    """What a page of these files has, and its kit.json."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(packages))
        return kit_content(small_run, "site", images=1)


def browser() -> BrowserHost:
    return BrowserHost.reach("browser", Access())


BY_MODE: dict[str, ResizeMode] = {"tall.png": "crop", "wide.png": "letterbox"}
"""The other pictures are stretched."""

PAGE = """<!doctype html><iframe id="page" src="index.html"></iframe>
<script type="module">
import { pixelsOf } from "./picture.js";
const wait = () => new Promise((resolve) => setTimeout(resolve, 50));
const tell = (message) => fetch("told", { method: "POST", body: JSON.stringify(message) });
const look = async () => {
  const pixels = {}, text = {};
  for (const name of NAMES) {
    const bytes = await pixelsOf(await (await fetch(name)).blob(), SIDE, MODES[name]);
    pixels[name] = btoa(String.fromCharCode(...bytes));
  }
  const page = document.getElementById("page").contentDocument, byId = (id) => page.getElementById(id);
  while (!byId("file")?.options.length) await wait();
  for (const option of byId("file").options) {
    option.selected = true;
    byId("file").dispatchEvent(new Event("change"));
    const chosen = new DataTransfer();
    chosen.items.add(new File([await (await fetch(NAMES[0])).blob()], "a picture"));
    byId("choose").files = chosen.files;
    byId("choose").dispatchEvent(new Event("change"));
    while (!byId("answer").children.length && !page.querySelector(".bad")) await wait();
    text[option.text] = [byId("status").textContent, byId("here").textContent, byId("answer").innerText];
  }
  await tell({ result: { pixels, text } });
};
look().catch((error) => tell({ error: String(error) }));
</script>"""


def looked_at(members: Mapping[str, bytes | Path], pictures: Mapping[str, Path]) -> Json:
    """What a page makes of pictures, and what `index.html` shows of the first one with each file."""
    page = PAGE.replace("NAMES", json.dumps(list(pictures))).replace("SIDE", str(SIDE))
    page = page.replace("MODES", json.dumps(BY_MODE)).encode()
    with open_page(browser(), files_of({**members, **pictures, "test.html": page}), "test.html") as opened:
        return next(message["result"] for message in opened.messages(120) if "result" in message)


@needs_browser
@pytest.mark.usefixtures("every_core")
def test_a_bench_in_a_browser(small_run: Path) -> None:
    quick = ("--rounds", 2, "--samples", 2, "--warmup", 1, "--threads", 2)
    done = run_cli("bench", small_run, "--on", "browser", *quick)
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads((small_run / "bench.json").read_text())["hosts"]
    assert (entry["on"], entry["settings"]["threads"], entry["skipped"]) == ("browser", [2], [])
    assert {item["name"] for item in entry["verified"]} == set(FILES)
    assert all(item["images"] == 6 and item["max_difference"] <= LIMITS[item["name"]] for item in entry["verified"])
    runtimes = {item["name"]: item["runtime"] for item in entry["results"]}
    assert runtimes == {"tflite-int8": "litert.js", "onnx-float32": "onnxruntime-web"}
    assert set(entry["environment"]["versions"]) == {"chromium", "onnxruntime-web", "@litertjs/core"}
    for item in entry["results"]:
        assert (item["n"], len(item["samples_ms"])) == (4, 2)
        assert 0 < item["latency_ms"]["min"] <= item["latency_ms"]["p50"] <= item["latency_ms"]["p99"]
        assert item["load_ms"] > 0
    assert any("steps of 0.005 ms (cross-origin isolated)" in note for note in entry["notes"])


@needs_browser
@pytest.mark.usefixtures("every_core")
def test_webgpu_computes_float_files(small_run: Path) -> None:
    """Without a GPU, Chromium's own renderer stands in for one: real shaders, slowly."""
    on = ("--on", "browser+webgpu")
    done = run_cli("bench", small_run, *on, "--rounds", 2, "--samples", 1, "--warmup", 1, "--threads", 1)
    assert done.returncode == 0, done.stderr
    entry = json.loads((small_run / "bench.json").read_text())["hosts"][-1]
    assert [item["name"] for item in entry["results"]] == ["onnx-float32"]
    assert entry["verified"][0]["max_difference"] <= LIMITS["onnx-float32"]
    versions = entry["environment"]["versions"]
    assert set(versions) == {"chromium", "onnxruntime-web", "webgpu"}
    stands_in = [note for note in entry["notes"] if "stands in for a GPU" in note]
    assert len(stands_in) == ("swiftshader" in versions["webgpu"])

    (there,) = tledge.check(small_run, on="browser+webgpu").hosts
    assert there.environment.versions["webgpu"] == versions["webgpu"]
    assert [item.name for item in there.result.artefacts] == ["onnx-float32"]
    assert there.against_here[0].max_probability_difference <= LIMITS["onnx-float32"]
    assert any(note.startswith("tflite-int8: not asked of browser+webgpu") for note in there.result.notes)

    done = run_cli("check", small_run, *on, "--artefact", small_run / "export" / FILES["tflite-int8"])
    assert done.returncode == 2
    assert "expected a float file, as WebGPU does for --on browser+webgpu" in done.stderr


@needs_browser
@pytest.mark.parametrize("name", ["tflite-int8", "onnx-int8"])
def test_webgpu_takes_a_file_whole_or_not_at_all(name: str, finished_run: Path, small_run: Path) -> None:
    members, kit = kit_content(finished_run, "site", images=1)
    artefact = next(item for item in kit["artefacts"] if item["name"] == name)
    kit["artefacts"] = [artefact]
    members |= {"kit.json": json.dumps(kit).encode()}
    address = "bench.html?post&rounds=1&threads=1&provider=webgpu"
    host = BrowserHost.reach("browser+webgpu", Access())
    expected = rf"but {name} cannot be run: WebGPU does not compute all of it: "
    with open_page(host, files_of(members), address) as opened, pytest.raises(RemoteError, match=expected):
        list(opened.messages(60))


@needs_browser
def test_a_check_in_a_browser(small_run: Path) -> None:
    result = tledge.check(small_run, on="browser")
    (there,) = result.hosts
    assert set(there.environment.versions) == {"chromium", "onnxruntime-web", "@litertjs/core"}
    assert [item.runtime for item in there.result.artefacts] == ["onnxruntime-web", "litert.js"]
    for item, against in zip(there.result.artefacts, there.against_here, strict=True):
        assert against.max_probability_difference <= LIMITS[item.name], item.name
        assert against.reason == ""
    assert json.loads((small_run / "check.json").read_text())["hosts"][0]["on"] == "browser"


@needs_browser
def test_the_page_sees_pictures_as_training_did(
    small_run: Path,
    site: tuple[dict[str, bytes | Path], Json],
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a server that sends no headers: one thread."""
    monkeypatch.setattr(browser_host, "ISOLATION", {})
    rng = np.random.default_rng(1)
    pictures = {"digit.png": next(iter(sorted(digits.rglob("*.png"))))}
    for name, shape in (("tall.png", (90, 40)), ("wide.png", (60, 201, 3)), ("clear.png", (48, 48, 4))):
        pictures[name] = tmp_path / name
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(pictures[name])
    if PHOTOS.is_dir():
        pictures["photo.jpg"] = next(iter(sorted(PHOTOS.rglob("*.jpg"))))
    seen = looked_at(site[0], pictures)
    # Browsers decode JPEG and blend transparency in their own way.
    most = {"photo.jpg": 2, "clear.png": 1}
    for name, path in pictures.items():
        pixels = np.frombuffer(base64.b64decode(seen["pixels"][name]), np.uint8).reshape(SIDE, SIDE, 3)
        expected = decode(path, SIDE, resizer_of(BY_MODE.get(name, "stretch")))
        assert np.abs(pixels.astype(int) - expected).max() <= most.get(name, 0), name
    assert len(seen["text"]) == len(FILES)
    for shown, (status, here, answer) in seen["text"].items():
        name = shown.split()[0]
        label, probability = tledge.predict(small_run / "export" / FILES[name], [pictures["digit.png"]])[0].ranking[0]
        assert status.startswith(f"{name} in "), status
        assert "ms, 1 thread." in status
        assert here.startswith("One thread: ")
        best, percent = answer.split("\n")[:2]
        assert best == label
        assert float(percent.removesuffix(" %")) == pytest.approx(100 * probability, abs=0.11)


@needs_browser
def test_a_file_that_the_runtime_refuses(site: tuple[dict[str, bytes | Path], Json]) -> None:
    garbage = b"not a model" * 100
    (artefact,) = (item for item in site[1]["artefacts"] if item["name"] == "tflite-int8")
    content = {**site[1], "artefacts": [{**artefact, "sha256": hashlib.sha256(garbage).hexdigest()}]}
    members = {**site[0], artefact["file"]: garbage, "kit.json": json.dumps(content).encode()}
    with (
        open_page(browser(), files_of(members), "bench.html?post&rounds=1&threads=1") as opened,
        pytest.raises(
            RemoteError, match=r"expected browser to run every file, but tflite-int8 cannot be run: "
        ) as said,
    ):
        list(opened.messages(60))
    assert "\n" not in str(said.value)


@needs_npm
def test_a_kit_for_browsers_is_a_page(small_run: Path, tmp_path: Path) -> None:
    target = tmp_path / "one.toml"
    text = (recipe_folder() / "targets" / "browser.toml").read_text()
    parts = text.replace("[limits]", "[[artefacts]]", 1).split("[[artefacts]]")
    kept = [part for part in parts[1:-1] if 'recipe = "tflite-int8"' in part]
    target.write_text(f"{parts[0]}[[artefacts]]{kept[0]}[limits]{parts[-1]}")
    kit = tledge.kit(small_run, tmp_path / "site.zip", target=str(target), images=0)
    assert kit.form == "site"
    with zipfile.ZipFile(kit.path) as archive:
        names = set(archive.namelist())
        texts = {name: archive.read(name).decode() for name in names if name.endswith((".html", ".js", ".css"))}
    assert {"index.html", "bench.html", "kit.json", "labels.txt", "README.md", "SHA256SUMS"} <= names
    assert {"runtimes/litert/LICENSE.txt", "models/tflite-int8.tflite"} <= names
    assert not any(name.startswith("runtimes/onnxruntime-web/") for name in names), "no file needs it"
    assert not any(name.startswith("images/") or name.endswith((".mjs", ".lock")) for name in names)
    own = {name: text for name, text in texts.items() if not name.startswith("runtimes/")}
    assert not [name for name, text in own.items() if "://" in text], "nothing is loaded from elsewhere"
    assert '"@litertjs/wasm-utils";' not in texts["runtimes/litert/index.js"]


def test_what_is_missing_is_said(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"--on as browser\[\+webgpu\]\[:COMMAND\]"):
        BrowserHost.reach("browser://here", Access())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"apt-get install chromium"):
        browser()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    with pytest.raises(MissingDependencyError, match=r"expected npm, to fetch .*apt-get install npm"):
        web_runtime_files(["onnxruntime"])
    npm = tmp_path / "npm"
    npm.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('npm error network is unreachable')\n")
    npm.chmod(0o755)
    with pytest.raises(RemoteError, match=r"fetch onnxruntime-web@1\.30\.0, but npm error network is unreachable"):
        web_runtime_files(["onnxruntime"])
    npm.write_text(
        f"#!{sys.executable}\nimport sys, pathlib\n"
        "pathlib.Path(sys.argv[sys.argv.index('--pack-destination') + 1], 'x.tgz').write_bytes(b'other')\n"
    )
    with pytest.raises(RemoteError, match=r"integrity sha512-.*but npm brought"):
        web_runtime_files(["onnxruntime"])


# Asks for the page, as browsers do, and ends as they sometimes do.
DYING = """#!{python}
import sys, urllib.request
address = sys.argv[-1]
urllib.request.urlopen(address).read()
if {crashes}:
    alive = urllib.request.urlopen(address.partition("bench.html")[0] + "alive")
    alive.close()
    import time; time.sleep(30)
print("out of memory", file=sys.stderr)
sys.exit(3)
"""


@pytest.mark.parametrize(
    ("crashes", "says"),
    [(False, r"to stay open, but it ended with code 3: out of memory"), (True, r"to stay, but it crashed")],
)
def test_a_browser_that_dies(tmp_path: Path, crashes: bool, says: str) -> None:
    program = tmp_path / "dying"
    program.write_text(DYING.format(python=sys.executable, crashes=crashes))
    program.chmod(0o755)
    host = BrowserHost.reach(f"browser:{program}", Access())
    with (
        open_page(host, files_of({"bench.html": b"<p>"}), "bench.html?post") as opened,
        pytest.raises(RemoteError, match=says),
    ):
        list(opened.messages(30))


RESIZE = """
import { resizePicture } from "RESIZE_JS";
import { readFileSync } from "node:fs";
for (const { rgba, sizes } of JSON.parse(readFileSync(0))) {
  console.log(Buffer.from(resizePicture(Buffer.from(rgba, "base64"), ...sizes)).toString("base64"));
}
"""


@pytest.mark.skipif(NODE is None, reason="needs node (Debian: nodejs)")
def test_the_page_resizes_to_the_last_bit(tmp_path: Path) -> None:
    """Against Pillow 13; older ones shrink tall pictures in another order, and differ by 1."""
    rng = np.random.default_rng(0)
    sizes = [tuple(map(int, row)) for row in rng.integers(1, 300, (40, 4))]  # width and height, before and after
    sizes += [(224, 224, 224, 224), (500, 333, 32, 32), (333, 500, 224, 224), (1, 1, 8, 8), (64, 99, 64, 64)]
    sizes += [(100, 136, 64, 64), (100, 137, 64, 64)]  # on both sides of where the order changes
    pictures = [rng.integers(0, 256, (height, width, 3), np.uint8) for width, height, _, _ in sizes]
    opaque = [np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)]) for picture in pictures]
    asked = [
        {"rgba": base64.b64encode(rgba.tobytes()).decode(), "sizes": several}
        for rgba, several in zip(opaque, sizes, strict=True)
    ]
    # Node takes a .js file for a module where package.json says so.
    shutil.copy(recipe_folder() / "browser" / "resize.js", tmp_path / "resize.mjs")
    code = RESIZE.replace("RESIZE_JS", (tmp_path / "resize.mjs").as_uri())
    done = subprocess.run(
        [str(NODE), "--input-type=module", "-e", code],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=True,
    )
    answers = done.stdout.split()
    assert len(answers) == len(sizes)
    for picture, (_, _, width, height), answer in zip(pictures, sizes, answers, strict=True):
        pixels = np.frombuffer(base64.b64decode(answer), np.uint8).reshape(height, width, 3)
        assert np.array_equal(pixels, resize(Image.fromarray(picture), image_size(height, width))), (
            picture.shape,
            width,
        )
