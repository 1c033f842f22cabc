"""From options, as the command line and Python calls take them, to settings; which methods may follow each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tledge.compression.method import Method, MethodSettings
from tledge.compression.methods import METHODS
from tledge.core.errors import SettingsError
from tledge.core.settings import Option, Settings, option, options


def in_order() -> tuple[str, ...]:
    """Names of all methods in the order in which they may follow each other."""
    return tuple(sorted(METHODS, key=lambda name: METHODS[name].place))


def options_of(method: Method[Any]) -> dict[str, Option]:
    """A method's options by name: that of a field of its settings, without the unit at its end."""
    return {one.name.removesuffix("_px"): one for one in options(method.settings)}


def method_of(settings: MethodSettings) -> Method[Any]:
    """The method that settings belong to."""
    return next(method for method in METHODS.values() if method.settings is type(settings))


def settings_of(methods: Sequence[str], options: Mapping[str, Any]) -> tuple[MethodSettings, ...]:
    """Settings of each method, in order.

    Args:
        methods: names of `METHODS`.
        options: by name, see `options_of`; None stands for each method's default.

    Raises:
        SettingsError: unknown method, an option that none of the methods has, or a value out of range.
    """
    if unknown := [name for name in methods if name not in METHODS]:
        raise SettingsError(f"expected a method of {', '.join(in_order())}, but got {unknown[0]!r}; choose one of them")
    given = {name: value for name, value in options.items() if value is not None}
    for asked in given:
        owners = [name for name in in_order() if asked in options_of(METHODS[name])]
        if not set(owners) & set(methods):
            raise SettingsError(
                f"expected --{asked.replace('_', '-')} only with --method {' or '.join(owners)}, but got it with "
                f"{', '.join(methods)}; leave it out or add the method"
            )
    return tuple(_settings(METHODS[name], given) for name in methods)


def _settings(method: Method[Any], given: Mapping[str, Any]) -> MethodSettings:
    found: MethodSettings = method.settings(
        **{one.name: given[name] for name, one in options_of(method).items() if name in given}
    )
    return found


def require_order(history: Sequence[str], wanted: Sequence[MethodSettings]) -> None:
    """Check, before slow work, that no method would destroy what an earlier one made.

    Args:
        history: names of the methods that made the run, oldest first.
        wanted: settings of the methods to follow.

    Raises:
        SettingsError: none is wanted, something after a method that is the last, an earlier kind of method after a
            later one, one that undoes itself twice, or settings that conflict with what was done before.
    """
    if not wanted:
        raise SettingsError(f"expected at least one method ({', '.join(in_order())}), but got none; name one")
    if unknown := [name for name in history if name not in METHODS]:
        raise SettingsError(
            f"expected a run made by {', '.join(in_order())}, but got one made by {unknown[0]}; use one that has it"
        )
    done = list(history)
    for settings in wanted:
        method = method_of(settings)
        if ended := [other for other in done if METHODS[other].last]:
            raise SettingsError(
                f"expected {ended[0]} to be the last method, but got {method.name} after {' → '.join(done)}; "
                f"take the run before {ended[0]} instead"
            )
        if method.undoes_itself and method.name in done:
            raise SettingsError(
                f"expected {method.name} once, since it would begin anew and give up what the first one made, but got "
                f"it after {' → '.join(done)}; take the run before {method.name} with the values you want"
            )
        if later := [other for other in done if METHODS[other].place > method.place]:
            raise SettingsError(
                f"expected methods in the order {' → '.join(in_order())}, but got {method.name} after {later[-1]}, "
                f"whose work it would destroy; take the run before {later[-1]} instead"
            )
        if reason := method.conflict(settings, done):
            raise SettingsError(reason)
        done.append(method.name)


def _all_options() -> type[Settings]:
    """Options of all methods, each once."""
    owners: dict[str, dict[str, Option]] = {}
    for method in in_order():
        for name, one in options_of(METHODS[method]).items():
            owners.setdefault(name, {})[method] = one
    # What a single method or a few have comes before what every method has, as on the command line.
    common = [name for name, found in owners.items() if len(found) == len(METHODS)]
    asked = option(("low-rank",), help="What to do; repeat for several, one after the other.")
    declared = [("method", "tuple[MethodName, ...]", asked)]
    for name in [*(name for name in owners if name not in common), *common]:
        one = next(iter(owners[name].values()))
        kind = one.kind.__name__
        if name in common and len({each.default for each in owners[name].values()}) == 1:
            declared.append((name, kind, option(one.default, help=one.help, metavar=one.metavar, parse=one.parse)))
            continue
        text = f"{_only(owners[name])}{one.help}{_defaults(owners[name])}"
        declared.append((name, f"{kind} | None", option(None, help=text, metavar=one.metavar, parse=one.parse)))
    found = make_dataclass("Options", declared, bases=(Settings,), frozen=True)
    found.__module__ = __name__
    return found


def _only(owners: Mapping[str, Option]) -> str:
    return f"{next(iter(owners))}: " if len(owners) == 1 else ""


def _defaults(owners: Mapping[str, Option]) -> str:
    methods: dict[float, list[str]] = {}
    for method, one in owners.items():
        if isinstance(one.default, int | float):
            methods.setdefault(one.default, []).append(method)
    if not methods:
        return ""
    if len(methods) == 1:
        return f"  [default: {next(iter(methods)):g}]"
    listed = ", ".join(f"{', '.join(names)} {value:g}" for value, names in methods.items())
    return f"  [default: {listed}]"


if TYPE_CHECKING:
    MethodName: TypeAlias = str

    @dataclass(frozen=True)
    class Options(Settings):
        """What may be asked for: `method` names one or several, in the order in which to apply them.

        The other fields are the options of all methods; None stands for each method's default.
        """

        method: tuple[MethodName, ...] = ("low-rank",)

else:
    MethodName = Literal[in_order()]
    Options = _all_options()

ALL_DEFAULTS = Options()
