"""report.html: what stands in it, and what a browser and a screen reader make of it."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml

import tledge
from tests.conftest import run_cli
from tests.reporting.chromium import OpenPage, chromium
from tledge.benchmark import bench as bench_stage
from tledge.core.errors import RunError
from tledge.core.files import sha256_file
from tledge.deployment.web_runtimes import _fetched
from tledge.reporting.html.figures import Point, Series, pareto
from tledge.reporting.html.images import MOST_CARDS, gallery
from tledge.reporting.html.scales import linear, positive
from tledge.runs.check_json import read_check
from tledge.runs.predictions import Answered, Predictions, read_predictions

FILES = ("onnx-float32", "tflite-int8")
HOSTILE = {
    "digit 0": "<script>alert(1)</script>",
    "digit 1": "\"quoted\" & 'single' <b>",
    "digit 7": "قطة 🐈",
    "000.png": "<img src=x onerror=alert(1)>.png",
}
needs_browser = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("npm")), reason="needs chromium and npm (Debian: chromium, npm)"
)


def measure(run: Path) -> None:
    """Keep two files, check and bench them, without TensorFlow."""
    for path in (run / "export").iterdir():
        if path.stem not in FILES:
            path.unlink()
    tledge.check(run, max_drop=0.9, on_undecided="pass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_stage, "installed", lambda package: False)
        tledge.bench(run, rounds=2, samples=3, threads=1)


@pytest.fixture(scope="module")
def passing(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that was checked and measured, one of whose answers was changed to a lost image."""
    run = finished_run.parent / "for-pages"
    shutil.copytree(finished_run, run)
    measure(run)
    edit_csv(run / "predictions.csv", lose_the_first_image)
    as_checked(run)
    tledge.report(run)
    yield run
    shutil.rmtree(run)


@pytest.fixture(scope="module")
def hostile(passing: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same with names that are code to a page, in another folder of data."""
    run = passing.parent / "<i>&amp; run"
    shutil.copytree(passing, run)
    data = tmp_path_factory.mktemp("hostile")
    for path in digits.rglob("*.png"):
        # A folder's name has no slash, a class of an archive may.
        target = data / renamed(path.parent.name) / renamed(path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for name in ("run.json", "check.json"):
        content = json.loads((run / name).read_text())
        content["data_root"] = str(data)
        (run / name).write_text(json.dumps(renamed(content)))
    for name in ("predictions.csv", "split.csv"):
        edit_csv(run / name, lambda rows: [[renamed(cell) for cell in row] for row in rows])
    as_checked(run)
    (run / "model_card.toml").write_text('license = "apache-2.0"\nlimits = "<script>alert(2)</script>"\n')
    tledge.report(run)
    yield run
    shutil.rmtree(run)


def renamed(value: Any) -> Any:
    """The same with other names of classes and images, in keys as well."""
    if isinstance(value, dict):
        return {renamed(key): renamed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [renamed(inner) for inner in value]
    for old, new in HOSTILE.items():
        value = value.replace(old, new) if isinstance(value, str) else value
    return value


def as_checked(run: Path) -> None:
    """Let check.json describe predictions.csv as it is now."""
    content = json.loads((run / "check.json").read_text())
    digest = sha256_file(run / "predictions.csv")
    (run / "check.json").write_text(json.dumps(content | {"predictions_sha256": digest}))


def edit_csv(path: Path, edit: Callable[[list[list[str]]], list[list[str]]]) -> None:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows(edit(rows))


def lose_the_first_image(rows: list[list[str]]) -> list[list[str]]:
    """The first file names the class after the true one, where the reference is right."""
    header, *images = rows
    first = next(row for row in images if row[1] == row[2])
    first[3] = next(row[1] for row in images if row[1] != first[1])
    first[header.index("p(onnx-float32)")] = "0.4321"
    return [header, *images]


def text_of(page: str) -> str:
    """What a person reads of a page."""
    seen = re.sub(r"<(style|script)\b.*?</\1>", "", page, flags=re.S)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", seen)))


def test_numbers_of_the_page_are_those_of_the_files(passing: Path) -> None:
    page = (passing / "report.html").read_text()
    check, bench = (json.loads((passing / f"{name}.json").read_text()) for name in ("check", "bench"))
    measured = {item["name"]: item for item in bench["results"]}
    lines = dict(re.findall(r'<tr data-file="([^"]+)">(.*?)</tr>', page, re.S))
    assert set(lines) == {"keras", *FILES}
    for item in check["artefacts"]:
        values = re.findall(r'data-value="([^"]*)"', lines[item["name"]])
        assert [float(value) for value in values[1:6]] == [
            *(item[key] for key in ("accuracy", "accuracy_drop", "lost", "size_bytes")),
            measured[item["name"]]["latency_ms"]["p50"],
        ]
        low, high = item["accuracy_interval_95"]
        shown = text_of(lines[item["name"]])
        assert f"{item['accuracy']:.3f} {low:.3f}–{high:.3f}" in shown
        assert {"pass": "pass", "fail": "fail", "undecided": "undecided"}[item["verdict"]] in shown
        assert f'href="export/{item["name"]}.' in lines[item["name"]]
        assert sum(map(len, measured[item["name"]]["samples_ms"])) == 6
    strokes = re.findall(r'<path class="samples s\d" d="([^"]*)"', page)
    assert len(strokes) == len(FILES)
    # Every sample is in the figure: a dot each, but for those at the same place.
    for name, stroke in zip(FILES, strokes, strict=True):
        assert 0 < stroke.count("h0") <= sum(map(len, measured[name]["samples_ms"]))
    recall = check["artefacts"][1]["recall"]
    for name, value in recall.items():
        assert re.search(rf"<bdi>{name}</bdi></th>.*?<bdi>{value:.3f}</bdi>", page, re.S)
    assert "0.43" in text_of(page.partition('id="images"')[2])
    assert f"Next: tledge kit {passing.name} -o kit.zip" in text_of(page)
    assert len(page.encode()) < 400_000


def test_the_card_is_read_by_others_and_extended_by_its_owner(hostile: Path) -> None:
    card = (hostile / "MODEL_CARD.md").read_text()
    _, front, text = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    check = json.loads((hostile / "check.json").read_text())
    assert (metadata["license"], metadata["pipeline_tag"]) == ("apache-2.0", "image-classification")
    (model,) = metadata["model-index"]
    (result,) = model["results"]
    assert model["name"] == hostile.name
    assert {metric["name"]: metric["value"] for metric in result["metrics"]} == {
        "Accuracy, keras": check["reference"]["accuracy"],
        **{f"Accuracy, {item['name']}": item["accuracy"] for item in check["artefacts"]},
    }
    assert "## Limits\n\n<script>alert(2)</script>" in text  # its owner's Markdown
    (hostile / "model_card.toml").write_text('licence = "MIT"\n')
    with pytest.raises(RunError, match=r"license.*model_card\.toml, but got licence \(did you mean license\?\)"):
        tledge.report(hostile)
    (hostile / "model_card.toml").unlink()


def test_what_is_missing_is_said(finished_run: Path, run_copy: Path, tmp_path: Path) -> None:
    done = run_cli("report", run_copy)
    assert done.returncode == 0, done.stderr
    page = text_of((run_copy / "report.html").read_text())
    assert "Not checked yet" in page
    assert f"not measured, run tledge bench {run_copy.name}" in page
    assert "Next: tledge check" in page
    lines = (run_copy / "history.csv").read_text().splitlines()
    (run_copy / "history.csv").write_text("\n".join([*lines[:3], "3,nan,0.5,inf,0.5,1.0"]))
    tledge.report(run_copy)
    page = (run_copy / "report.html").read_text()
    assert 'id="figure-training-loss"' in page
    assert "nan" not in text_of(page)
    (run_copy / "history.csv").write_text(
        "method,epoch,val_loss\nlow-rank,0,0.5\nlow-rank,1,0.4\nqat,0,0.4\nqat,1,0.3\n"
    )
    tledge.report(run_copy)
    page = (run_copy / "report.html").read_text()
    assert "low-rank, validation" in text_of(page)
    assert 'id="figure-training-accuracy"' not in page
    shutil.rmtree(run_copy / "export")
    (run_copy / "history.csv").unlink()
    tledge.report(run_copy)
    assert "No files yet" in text_of((run_copy / "report.html").read_text())


def test_images_that_moved_are_named_and_found_again(passing: Path, digits: Path, tmp_path: Path) -> None:
    run = shutil.copytree(passing, passing.parent / f"{tmp_path.name}-moved")
    content = json.loads((run / "check.json").read_text())
    (run / "check.json").write_text(json.dumps(content | {"data_root": "gone"}))
    tledge.report(run)
    page = (run / "report.html").read_text()
    assert "data:image/" not in page
    assert "not found where the images were" in page
    tledge.report(run, data=digits)
    assert "data:image/webp" in (run / "report.html").read_text()
    (run / "predictions.csv").write_text("path,class,reference\n")
    tledge.report(run)
    assert "predictions.csv is not that of the last check" in text_of((run / "report.html").read_text())
    shutil.rmtree(run)


def test_answers_that_were_changed_are_not_shown(passing: Path, tmp_path: Path) -> None:
    run = shutil.copytree(passing, passing.parent / f"{tmp_path.name}-changed")
    edit_csv(run / "predictions.csv", lambda rows: [rows[0], *([*row[:3], "other", *row[4:]] for row in rows[1:])])
    tledge.report(run)
    assert "predictions.csv is not that of the last check" in text_of((run / "report.html").read_text())
    shutil.rmtree(run)


def test_many_changed_images_are_sampled_over_the_files(passing: Path, tmp_path: Path) -> None:
    check = read_check(passing / "check.json")
    assert check is not None
    count = 4 * MOST_CARDS
    labels = ["a"] * count
    wrong = {"first": range(count), "second": range(40), "third": range(900, 910)}
    answers = {"reference": Answered(labels, [0.95] * count)}
    for name, lost in wrong.items():
        answers[name] = Answered(["b" if i in lost else "a" for i in range(count)], [0.95] * count)
    found = gallery(tmp_path, check, Predictions([f"{i}.png" for i in range(count)], labels, answers))
    assert (len(found.changed), found.n_changed, found.missing) == (MOST_CARDS, count, MOST_CARDS)
    named = [card.models for card in found.changed]
    assert sum("third" in models for models in named) == 10
    assert sum("second" in models for models in named) == 40
    assert found.unsure == ()


def test_predictions_of_before_have_no_probabilities(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text("path,class,reference,m\na.png,cat,cat,dog\n")
    found = read_predictions(path)
    assert found is not None
    assert list(found.answers) == ["reference", "m"]
    assert list(found.answers["m"].probabilities) == []
    path.write_text("path,class,reference,p(reference)\na.png,cat,cat,high\n")
    with pytest.raises(
        RunError, match=r"expected numbers as p\(reference\) in .*predictions\.csv.*run `tledge check` again"
    ):
        read_predictions(path)


def test_scales() -> None:
    assert [text for _, text in positive([1, 90], 0, 100).ticks()] == ["1", "3", "10", "30", "100"]
    assert [text for _, text in positive([10, 12], 0, 100).ticks()] == ["0", "5", "10"]
    scale = linear([0.9, 0.9], 0, 100, within=(0.0, 1.0))
    assert scale(0.9) == pytest.approx(50, abs=0.2)
    assert linear([0.5, 1.0], 300, 0, within=(0.0, 1.0)).high == 1.0
    points = [Point("", Series(""), x, y, "") for x, y in ((3, 0.9), (1, 0.8), (2, 0.8), (4, 0.7), (3, 0.95))]
    assert [(p.x, p.y) for p in pareto(points)] == [(1, 0.8), (3, 0.95)]


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[OpenPage]:
    with chromium() as page:
        yield page


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core, as it was pinned."""
    *_, line = (Path(__file__).parent / "packages.lock").read_text().splitlines()
    package, integrity = line.split()
    with tarfile.open(fileobj=BytesIO(_fetched(package, integrity))) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


def serious(browser: OpenPage, page: Path, axe: str) -> list[str]:
    """What axe-core finds serious or critical in a page, and where."""
    browser.open(page, bypass_policy=True)
    browser.run(f"{axe};0")
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true }); 0")
    found = browser.run("axe.run(document, {resultTypes: ['violations']}).then((result) => result.violations)")
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]} {each['nodes'][0].get('failureSummary', '')}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


@needs_browser
@pytest.mark.parametrize("which", ["passing", "hostile"])
def test_a_browser_opens_it_alone_and_in_peace(which: str, browser: OpenPage, request: pytest.FixtureRequest) -> None:
    run: Path = request.getfixturevalue(which)
    browser.logged.clear()
    browser.requested.clear()
    browser.look(390, 800)
    browser.open(run / "report.html")
    assert browser.run("document.documentElement.scrollWidth") == 390
    # Sorted by p50, descending first where it is ascending already, files that were not measured last.
    order = "[...document.querySelectorAll('table.files tbody tr')].map((row) => row.cells[6].dataset.value)"
    for direction in ("ascending", "descending"):
        browser.run("document.querySelectorAll('table.files th button')[6].click()")
        *known, unknown = browser.run(order)
        assert unknown == ""
        assert list(map(float, known)) == sorted(map(float, known), reverse=direction == "descending")
        assert browser.run("document.querySelectorAll('table.files th')[6].ariaSort") == direction
    cards = "[...document.querySelectorAll('ul.cards li')].filter((card) => card.checkVisibility()).length"
    everything = browser.run(cards)
    choose = "for (const each of document.querySelectorAll('select')) if (each.name === '{}') {{ each.value = '{}'; "
    choose += "each.dispatchEvent(new Event('change', {{bubbles: true}})) }}"
    browser.run(choose.format("kind", "lost"))
    assert browser.run(cards) == 1
    assert "1 of" in browser.run("document.querySelector('form.filter').parentElement.innerText") or everything == 1
    browser.run(choose.format("kind", "won"))
    assert browser.run(cards) == 0
    browser.run(choose.format("kind", ""))
    assert browser.run(cards) == everything
    assert browser.run("document.querySelectorAll('img').length") >= 1
    assert browser.run("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    wanted = [address for address in browser.requested if not address.startswith("data:")]
    assert wanted == [(run / "report.html").absolute().as_uri()]
    assert browser.logged == []
    if which == "hostile":
        shown = browser.run("document.body.innerText")
        assert all(name in shown for name in list(HOSTILE.values())[:3])
        assert browser.run("document.querySelectorAll('script').length") == 1
        assert browser.run("document.querySelectorAll('main b:not(:has(bdi))').length") == 0


@needs_browser
def test_screen_readers_and_eyes_can_use_it(passing: Path, hostile: Path, browser: OpenPage, axe: str) -> None:
    for run, width, dark in ((passing, 1280, False), (passing, 1280, True), (hostile, 390, False)):
        browser.look(width, 900, dark=dark)
        assert serious(browser, run / "report.html", axe) == []


@pytest.fixture(scope="module")
def compared(passing: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page of two runs, of which the second loses half of a class more."""
    other = passing.parent / "other <run>"
    shutil.copytree(passing, other)
    content = json.loads((other / "check.json").read_text())
    content["artefacts"][1]["recall"]["digit 7"] = 0.25
    (other / "check.json").write_text(json.dumps(content))
    page = tmp_path_factory.mktemp("compared") / "page.html"
    done = run_cli("compare", passing, other, "--html", page)
    assert done.returncode == 0, done.stderr
    yield page
    shutil.rmtree(other)


def test_runs_side_by_side(compared: Path, passing: Path) -> None:
    page = compared.read_text()
    text = text_of(page)
    check = json.loads((passing / "check.json").read_text())
    before = check["artefacts"][1]["recall"]["digit 7"]
    assert re.search(rf"digit 7 .*{before:.3f} {0.25 - before:+.3f}", text.partition("What changed per class")[2])
    assert "<run>" not in page
    assert page.count("<tr>") >= 6
    content = json.loads((passing / "bench.json").read_text())
    assert all(f"{item['latency_ms']['p50']:.2f}" in text for item in content["results"])


# What `optimize` and `adopt` write into run.json, for pages of such runs without the minutes that making them takes.
SAID = {
    "optimized": {
        "optimization": {"method": "low-rank"},
        "parent": {"path": "../before", "model_sha256": "0" * 64, "optimization": None, "parent": None},
    },
    "adopted": {
        **{"origin": "adopted", "technique": None, "head": None, "settings": {"form": "rgb 0..255 nhwc (declared)"}},
        "weights": {"requested": "model.keras", "source": "adopted from model.keras", "digest": "0" * 64},
    },
}


@needs_browser
@pytest.mark.parametrize("kind", ["failing", "undecided", "optimized", "adopted", "compared"])
def test_pages_of_other_runs(
    kind: str, passing: Path, compared: Path, tmp_path: Path, browser: OpenPage, axe: str
) -> None:
    run = passing.parent / tmp_path.name
    says = {"failing": "2 are not", "undecided": "1 is undecided", "optimized": "made smaller by low-rank"}
    page = compared
    if kind != "compared":
        shutil.copytree(passing, run)
        if kind in SAID:
            content = json.loads((run / "run.json").read_text())
            (run / "run.json").write_text(json.dumps(content | SAID[kind]))
        else:
            gates = {"failing": "probability_difference < 1e-12, size < 1 kB", "undecided": "drop < 0.02"}
            tledge.check(run, gates=gates[kind], on_undecided="pass")
        page = tledge.report(run).run.page
        text = text_of(page.read_text())
        assert says.get(kind, "adopted from model.keras") in text
        assert (f"tledge optimize {run.name} --goal" in text, "tledge diagnose" in text) == (kind == "failing",) * 2
    stays_alone(browser, page, axe)
    shutil.rmtree(run, ignore_errors=True)


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["optimized", "adopted"])
def test_pages_of_runs_that_were_made_so(
    kind: str, vgg16_run: Path, digits: Path, tmp_path: Path, browser: OpenPage, axe: str
) -> None:
    run = tmp_path / "run"
    if kind == "optimized":
        tledge.optimize(vgg16_run, out=run, method="low-rank", speedup=4, pictures=12, epochs=1)
    else:
        tledge.adopt(vgg16_run / "model.keras", data=digits, out=run, input="0..255")
    tledge.export(run, recipes=FILES)
    tledge.check(run, gates="drop <= 1", on_undecided="pass")
    stays_alone(browser, tledge.report(run).run.page, axe)


def stays_alone(browser: OpenPage, page: Path, axe: str) -> None:
    """A page that fits a phone, logs nothing, asks for nothing, and in which axe-core finds nothing serious."""
    browser.look(390, 800)
    browser.logged.clear()
    browser.requested.clear()
    browser.open(page)
    assert browser.run("document.documentElement.scrollWidth") == 390
    assert browser.logged == []
    assert [one for one in browser.requested if not one.startswith("data:")] == [page.absolute().as_uri()]
    assert serious(browser, page, axe) == []


def test_open_asks_for_a_browser(passing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or False)
    done = run_cli("report", passing, "--open")
    assert done.returncode == 0
    assert opened == [(passing / "report.html").absolute().as_uri()]
    assert "found no browser" in done.stderr
