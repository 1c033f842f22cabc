"""Options are written once: their ranges, and the Python call that is made from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from tledge.core.errors import SettingsError
from tledge.core.settings import Settings, from_keywords, option, options


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
        ({"salt": 0.2}, "expected --salt from 0 to 0.1, but got 0.2; choose a smaller value"),
        ({"salt": float("nan")}, "expected --salt from 0 to 0.1, but got nan; choose a larger value"),
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
    call: Callable[..., Any] = from_keywords(bake)
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

    call = from_keywords(toast)
    assert call() == TOAST
    assert call(width=12) == Baking("rye", minutes=3, width=12)
    assert inspect.signature(call).parameters["minutes"].default == 3


def test_the_call_says_what_it_takes() -> None:
    call = from_keywords(bake)
    parameters = inspect.signature(call).parameters
    assert list(parameters) == ["oven", "out", "flour", "minutes", "salt", "width", "seeds", "recipe"]
    assert parameters["flour"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["flour"].default is inspect.Parameter.empty
    assert parameters["minutes"].annotation == "int"
    text = inspect.getdoc(call) or ""
    assert "gives way" not in text
    assert "    oven: where.\n    flour: Which flour.\n    minutes: How long.\n" in text
    assert text.endswith("    out: what comes out.")


def test_a_function_without_settings_stays_as_it_is() -> None:
    def plain(oven: str) -> str:
        return oven

    assert from_keywords(plain) is plain
