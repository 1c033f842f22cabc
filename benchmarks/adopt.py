"""What the six default files of models from tutorials cost and keep: adopted, exported, checked and measured here.

    PYTHONPATH=. python benchmarks/adopt.py [NAME]... --models DIR --out benchmarks/results/adopt_MACHINE.csv

NAMEs are those of `tests/adoption/zoo.py`, all by default. Each model is trained on 60 handwritten digits of each class
unless its file is in DIR already, becomes a run there, and is exported by the default recipes. Accuracy is that on 100
other digits of each class (40 at 224 px), which neither training nor export saw; latency is `tledge bench`, 2 threads,
batch 1. An int8 file that drops by more than 0.01 is exported and measured once more with `--max-drop 0.01`. Lines of
other models in the CSV stay. Beside it the same goes to a Markdown table.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import click

import tledge
from tests.adoption.zoo import TUTORIALS, Tutorial, data_of, trained
from tledge.core.environment import cpu, versions
from tledge.core.files import write_csv, write_text

COLUMNS = (
    *("model", "image_size_px", "input", "recipe", "n", "reference_accuracy", "accuracy", "drop", "drop_low_95"),
    *("drop_high_95", "agreement", "max_probability_difference", "latency_n", "p50_ms", "p90_ms", "speedup_vs_keras"),
    *("size_bytes", "other_cores", "threads", "cpu", "cpu_flags", "tensorflow", "litert", "onnxruntime"),
)
_SHOWN = ("model", "recipe", "n", "reference_accuracy", "drop", "agreement", "p50_ms", "speedup_vs_keras", "size_bytes")
_THREADS = 2
_MAX_DROP = 0.01


def lines(tutorial: Tutorial, models: Path) -> list[list[object]]:
    """Train, adopt, export, check and measure one model; the reference comes first."""
    seen, unseen = data_of(tutorial, models)
    model = models / f"{tutorial.name}{tutorial.suffix}"
    if not model.is_file():
        click.echo(f"adopt: training {tutorial.name}", err=True)
        trained(tutorial, seen, models)
    run = models / f"run-{tutorial.name}"
    shutil.rmtree(run, ignore_errors=True)
    click.echo(f"adopt: {tutorial.name}", err=True)
    tledge.adopt(model, seen, run, input=tutorial.input, output=tutorial.output)
    tledge.export(run)
    rows = _measured(tutorial, run, unseen)
    recipe, drop = COLUMNS.index("recipe"), COLUMNS.index("drop")
    losing = [
        str(row[recipe]) for row in rows if float(str(row[drop])) > _MAX_DROP and str(row[recipe]).endswith("int8")
    ]
    if losing:
        held = tledge.export(run, recipes=losing, max_drop=_MAX_DROP, force=True).artefacts
        rows += _measured(tutorial, run, unseen, [artefact.path for artefact in held], f" --max-drop {_MAX_DROP}")[1:]
    return rows


def _measured(
    tutorial: Tutorial, run: Path, unseen: Path, artefacts: Sequence[Path] = (), suffix: str = ""
) -> list[list[object]]:
    """Check and measure a run's files, or some of them; the reference comes first, names of the others get a suffix."""
    checked = tledge.check(run, data=unseen, artefacts=artefacts, max_drop=1.0, on_undecided="pass")
    # Measured last: nothing of the conversion is at work beside it.
    measured = tledge.bench(run, artefacts=artefacts, threads=_THREADS, rounds=5, samples=5)
    name, flags = cpu()
    found = versions()
    machine = (
        _THREADS,
        name,
        " ".join(flags),
        *(found[key] for key in ("tensorflow", "ai-edge-litert", "onnxruntime")),
    )
    conditions = measured.environment.conditions
    busy = None if conditions is None else conditions.other_cores
    checks = {item.sha256: item for item in checked.artefacts}
    result: list[list[object]] = []
    for timing in measured.measurements:
        item = checks.get(timing.sha256)
        reference = checked.reference_accuracy.value
        numbers: tuple[float, ...] = (reference, 0.0, 0.0, 0.0, 1.0, 0.0)
        if item is not None:
            drop = item.drop
            agreed, apart = item.agreement.value, item.max_probability_difference
            numbers = (item.accuracy.value, drop.value, drop.low, drop.high, agreed, apart)
        latency = timing.latency_ms
        result.append(
            [
                *(tutorial.name, tutorial.side_px, tutorial.input, timing.name + suffix, checked.n),
                *(round(value, 4) for value in (reference, *numbers)),
                *(timing.n, round(latency["p50"], 3), round(latency["p90"], 3), timing.speedup_vs_keras),
                *(timing.size_bytes, busy, *machine),
            ]
        )
    return result


def kept(path: Path) -> dict[str, list[list[object]]]:
    """Lines of the CSV by model."""
    found: dict[str, list[list[object]]] = {}
    if path.is_file():
        with path.open(newline="") as stream:
            for line in list(csv.reader(stream))[1:]:
                found.setdefault(line[0], []).append(list(line))
    return found


def _span(rows: list[list[object]]) -> str:
    busy = sorted(float(str(row[COLUMNS.index("other_cores")])) for row in rows)
    return f"{busy[0]:.1f} to {busy[-1]:.1f}"


def table(rows: list[list[object]], csv_name: str) -> str:
    """The columns that people look at, as Markdown."""
    columns = [COLUMNS.index(name) for name in _SHOWN]
    first = dict(zip(COLUMNS, rows[0], strict=True))
    text = [
        "# Adopted models of tutorials",
        "",
        f"`PYTHONPATH=. python benchmarks/adopt.py --models DIR --out benchmarks/results/{csv_name}`",
        "",
        f"{first['cpu']} ({first['cpu_flags']}), {first['threads']} threads, batch 1; tensorflow "
        f"{first['tensorflow']}, ai-edge-litert {first['litert']}, onnxruntime {first['onnxruntime']}. Handwritten "
        "digits; accuracy on n images that neither training nor export saw, drop against the Keras model (negative: "
        f"better); p50 of {first['latency_n']} inferences, all files of a model in the same rounds, while other work "
        f"kept {_span(rows)} cores busy: compare within a model. All columns are in {csv_name}.",
        "",
        f"| {' | '.join(_SHOWN)} |",
        f"|{'---|' * len(_SHOWN)}",
        *(f"| {' | '.join(str(row[column]) for column in columns)} |" for row in rows),
        "",
    ]
    return "\n".join(text)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([tutorial.name for tutorial in TUTORIALS]))
@click.option("--models", required=True, type=click.Path(path_type=Path), help="Trained models and runs.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The CSV.")
def main(names: tuple[str, ...], models: Path, out: Path) -> None:
    """Write the lines of the models."""
    models.mkdir(parents=True, exist_ok=True)
    for tutorial in TUTORIALS:
        if tutorial.name in names or not names:
            found = kept(out) | {tutorial.name: lines(tutorial, models)}
            rows = [row for each in TUTORIALS for row in found.get(each.name, [])]
            write_csv(out, COLUMNS, rows)
            write_text(out.with_name("adopt.md"), table(rows, out.name))


if __name__ == "__main__":
    main()
