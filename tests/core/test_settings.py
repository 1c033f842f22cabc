"""Options are written once: their ranges, and the Python call that is made from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from tledge.core.errors import SettingsError
from tledge.core.settings import Settings, option, options, public_call


@dataclass(frozen=True)
class Baking(Settings):
    flour: Literal["wheat", "rye"] = option(help="Which flour.")
    minutes: int = option(40, help="How long.", above=0)
    salt: float | None = option(None, help="Share of salt.", low=0, high=0.1)
    width: int = option(20, help="Of the loaf.", low=10, unit="cm", because="since crusts are hard")
    seeds: tuple[int, ...] = option((), help="How many of each kind.", low=1)
    recipe: Path | None = option(None, help="From a file.", flag="--from")
    note: str = "kept, but no option"


TOAST = Baking("rye", minutes=3)


@dataclass(frozen=True)
class Oven:
    path: Path


@dataclass(frozen=True)
class Baked:
    run: Oven


def bake(oven: str, baking: Baking, *, out: str = "loaf") -> tuple[str, Baking, str]:
    """Bake a loaf.

    Args:
        oven: where.
        baking: how; this
            entry gives way to the options.
        out: what comes out.
    """
    return oven, baking, out


def test_options_are_read_from_the_fields() -> None:
    flour, minutes, salt, width, seeds, recipe = options(Baking)
    assert (flour.flag, flour.choices, flour.kind) == ("--flour", ("wheat", "rye"), str)
    assert (minutes.name, minutes.kind, minutes.default, minutes.help) == ("minutes", int, 40, "How long.")
    assert (salt.kind, salt.default, salt.multiple) == (float, None, False)
    assert (seeds.kind, seeds.multiple, width.multiple) == (int, True, False)
    assert (recipe.flag, recipe.kind) == ("--from", Path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flour": "oat"}, "expected --flour wheat or rye, but got 'oat'; choose one of them"),
        ({"minutes": 0}, "expected --minutes above 0, but got 0; choose a larger value"),
        ({"salt": 0.2}, "expected --salt between 0 and 0.1, but got 0.2; choose a smaller value"),
        ({"salt": float("nan")}, "expected --salt between 0 and 0.1, but got nan; choose a larger value"),
        (
            {"width": 9},
            "expected --width of at least 10 cm, since crusts are hard, but got 9; choose a larger value",
        ),
        ({"seeds": (1, 0)}, "expected --seeds of at least 1, but got 0; choose a larger value"),
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        replace(Baking("rye"), **change)
    assert str(caught.value) == message


def test_keywords_make_the_settings() -> None:
    call: Callable[..., Any] = public_call(bake)
    assert call("mine", flour="rye") == ("mine", Baking("rye"), "loaf")
    made = call("mine", flour="rye", minutes=50, seeds=3, recipe="old.txt", out="roll")
    assert made == ("mine", Baking("rye", 50, seeds=(3,), recipe=Path("old.txt")), "roll")
    assert call("mine", flour="rye", seeds=[1, 2])[1].seeds == (1, 2)
    assert call("mine", flour="rye", seeds=None)[1].seeds == ()
    with pytest.raises(TypeError, match="sugar"):
        call("mine", flour="rye", sugar=1)
    with pytest.raises(TypeError, match="flour"):
        call("mine")
    with pytest.raises(SettingsError, match="--minutes above 0"):
        call("mine", flour="rye", minutes=-1)


def test_a_parameters_default_is_that_of_the_keywords() -> None:
    def toast(baking: Baking = TOAST) -> Baking:
        return baking

    call = public_call(toast)
    assert call() == TOAST
    assert call(width=12) == Baking("rye", minutes=3, width=12)
    assert inspect.signature(call).parameters["minutes"].default == 3


def test_the_call_says_what_it_takes() -> None:
    call = public_call(bake)
    parameters = inspect.signature(call).parameters
    assert list(parameters) == ["oven", "flour", "minutes", "salt", "width", "seeds", "recipe", "out"]
    assert parameters["minutes"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["seeds"].annotation == "int | Sequence[int] | None"
    assert parameters["recipe"].annotation == "AnyPath | None"
    assert parameters["flour"].default is inspect.Parameter.empty
    assert parameters["minutes"].annotation == "int"
    text = inspect.getdoc(call) or ""
    assert "gives way" not in text
    assert "    oven: where.\n    flour: Which flour.\n    minutes: How long.\n" in text
    assert text.endswith("    out: what comes out.")


def test_paths_may_be_text_and_a_run_what_a_stage_returned() -> None:
    def stage(run_path: Path, files: Sequence[Path] = (), *, data: Path | None = None) -> tuple[object, ...]:
        return run_path, files, data

    call = public_call(stage)
    assert call("run", ["a"], data="b") == (Path("run"), (Path("a"),), Path("b"))
    assert call(run=Baked(Oven(Path("run")))) == (Path("run"), (), None)
    annotations = [one.annotation for one in inspect.signature(call).parameters.values()]
    assert annotations == ["AnyRun", "Sequence[AnyPath]", "AnyPath | None"]

    def several(*run_paths: Path) -> tuple[Path, ...]:
        return run_paths

    assert public_call(several)("a", Path("b")) == (Path("a"), Path("b"))
    assert list(inspect.signature(public_call(several)).parameters) == ["runs"]
