"""The page of a search for a goal, and the front that a terminal shows while it goes on."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.compression.test_goal import numbers, record
from tests.reporting.test_page import text_of
from tledge.cli.progress import progress_below_a_table
from tledge.compression.search.goal import parse_goal
from tledge.compression.search.record import Chosen, Origin, SearchFile, TrialRecords
from tledge.reporting.html.search_page import write_search_page
from tledge.reporting.search import front_so_far
from tledge.runs.rundir import SearchDir
from tledge.stats.metrics import Proportion

GOAL = parse_goal("p50 < 6 ms, drop < 0.1, size < 9 B")


def test_a_page_of_a_search(tmp_path: Path) -> None:
    about = SearchFile(
        goal=str(GOAL),
        origin=Origin(model_sha256="a", reference_sha256="a", data_fingerprint="f"),
        latency_conditions={},
        run="../run",
        created="",
        versions={},
        candidates=(),
    )
    folder = SearchDir(tmp_path)
    records = TrialRecords(folder, GOAL, about)
    for each in (record(numbers("small", 0.9, 5, 5)), record(numbers("slow & large", 0.94, 50, 50))):
        records.add(each)
    records.add(replace(record(numbers("gone", 0.5, 60, 60)), files=(), error="no memory <left>"))
    write_search_page(folder)
    assert "The search has not come to its end." in text_of(folder.page.read_text())
    outcome = {"left_out": {"smaller": "could not be chosen", "smallest": "could not be chosen"}, "notes": ("busy",)}
    original, chosen = Proportion(0.95, 0.9, 0.98, 100), Chosen(candidate="small", recipe="tflite-int8")
    records.save(SearchFile(**{**_fields(about), **outcome, "original": original, "chosen": chosen}))
    write_search_page(folder)
    page, content = folder.page.read_text(), json.loads(folder.numbers.read_text())
    text = text_of(page)
    for candidate in content["candidates"]:
        for file in candidate["files"]:
            assert f"{file['accuracy']['value']:.3f} (" in text
            assert f"{file['own_latency']['p50_ms']:.2f} °" in text
    assert "Chosen: tflite-int8 of small" in text
    assert "could not be chosen: smaller, smallest" in text
    assert "misses p50 < 6 ms" in text
    assert "no memory <left>" in text
    assert "<left>" not in page
    assert len(re.findall(r'class="front s0"', page)) == 2
    assert len(re.findall(r'class="limit"', page)) == 4, "the goal's limits on two axes of two figures"


def _fields(about: SearchFile) -> dict[str, object]:
    return {name: getattr(about, name) for name in about.__struct_fields__}


def test_a_terminal_shows_the_front_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    with progress_below_a_table() as (show, show_table):
        show("candidates", 1, 3)
        show_table(front_so_far(GOAL, (numbers("small", 0.9, 5, 5),)))
        show_table(front_so_far(GOAL, (numbers("small", 0.9, 5, 5), numbers("larger", 0.94, 7, 5))))
        show("candidates", 2, 3)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.getvalue())
    assert "So far on the front: p50 < 6 ms, drop < 0.1, size < 9 B" in text
    last = text[text.rindex("So far on the front") :]
    assert re.search(r"small +│ tflite-int8 +│ pass ", last)
    assert re.search(r"larger +│ tflite-int8 +│ misses p50 ", last)
    assert "2/3" in last
