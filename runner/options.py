"""Flags that the environment and a job file can set too."""

import math
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from runner.config import EXPLAINING_ROLES, ROLES
from runner.errors import UsageError, explain, listing

Decorator = Callable[[Callable[..., None]], Callable[..., None]]
PLACE = click.Path(path_type=Path, readable=False)
"""Any path: that one cannot be read is no wrong usage, but has the exit code of a bundle or an output."""


def option(name: str, *parameter: str, **settings: Any) -> Decorator:
    """Declare a flag that the environment can set too: --max-reject-rate is FREERUN_MAX_REJECT_RATE."""
    envvar = "FREERUN_" + name.removeprefix("--").upper().replace("-", "_")
    return click.option(name, *parameter, envvar=envvar, show_default=settings.get("default") is not None, **settings)


def finite(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    """Refuse NaN and infinity, which click takes for numbers."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number to hold anything against")
    return value


def job_file(ctx: click.Context, _param: click.Parameter, path: str | None) -> None:
    """Take defaults from a TOML file; flags and the environment win over it."""
    if not path:
        return
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(explain(f"cannot read the job file {path}", got=error)) from error
    flags = {flag.opts[0].lstrip("-").replace("-", "_"): flag for flag in ctx.command.params if flag.name != "config"}
    wrong = [f"{key}: no such option" for key in sorted(values.keys() - flags.keys())]
    for key in sorted(values.keys() & flags.keys()):
        wanted = _toml_type(flags[key])
        if type(values[key]) not in wanted:
            wrong.append(f"{key}: got {values[key]!r}, expected {' or '.join(kind.__name__ for kind in wanted)}")
    if wrong:
        raise UsageError(explain(f"the job file {path} does not fit:" + listing(wrong), expected=", ".join(flags)))
    chosen = {str(flags[key].name): value for key, value in values.items()}
    if "column" in chosen:
        chosen["column"] = [f"{role}={name}" for role, name in values["column"].items()]
    ctx.default_map = {**(ctx.default_map or {}), **chosen}


def _toml_type(flag: click.Parameter) -> tuple[type, ...]:
    if flag.name == "column":
        return (dict,)
    if flag.multiple:
        return (list,)
    if isinstance(flag, click.Option) and flag.is_flag:
        return (bool,)
    if isinstance(flag.type, click.FloatRange):
        return (int, float)
    return (int,) if isinstance(flag.type, click.IntRange) else (str,)


def columns(extra: tuple[str, ...] = ()) -> Callable[..., dict[str, str]]:
    """Return what reads the values of a repeatable ROLE=NAME option.

    Args:
        extra: roles that a command knows beside those of scoring.
    """

    def read(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
        found = pairs(ctx, param, given)
        check_roles(found, (*ROLES, *extra))
        return found

    return read


def check_roles(columns: Mapping[str, str], roles: tuple[str, ...]) -> None:
    """Refuse names for what is no role."""
    if bad := [f"{role}={name}" for role, name in columns.items() if role not in roles]:
        raise click.BadParameter(f"{', '.join(bad)}: {_expected(roles)}", param_hint="--column")


def _expected(roles: tuple[str, ...]) -> str:
    return f"expected ROLE=NAME, where ROLE is one of {', '.join(roles)}"


def only(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flag that limits it to one partition."""
    return option(
        "--only", multiple=True, metavar="KEY=VALUE", help="This partition alone; repeat it, outermost first."
    )(command)


def rolling(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags that say how windows roll over series."""
    return _all(
        command,
        option("--stride", type=click.IntRange(1), default=1, help="Steps from one rolling window to the next."),
        option("--from", "origin_from", metavar="DS", help="First origin of rolling windows."),
        option("--to", "origin_to", metavar="DS", help="Last origin of rolling windows."),
        option("--freq", metavar="FREQ", help="The time grid: h, 15min, D, MS, ...  [default: the bundle's]"),
    )


def cutting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags that say how windows are cut from series, and what becomes of them."""
    return _all(
        command,
        option("--window", type=click.Choice(["latest", "rolling"]), default="latest", help="One a series, or all."),
        rolling,
        option(
            "--output-layout", type=click.Choice(["windows", "long"]), help="What a row of OUT is.  [default: INPUT's]"
        ),
        option("--sort", is_flag=True, help="Sort each file by series and time first, on disk (needs duckdb)."),
    )


def _all(command: Callable[..., None], *decorators: Decorator) -> Callable[..., None]:
    """Decorate a command so that `--help` shows its flags in this order."""
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def pairs(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """Read the values of a repeatable ROLE=NAME option whose roles another flag decides."""
    bad = [pair for pair in given if not all(pair.partition("="))]
    if bad:
        raise click.BadParameter(f"{', '.join(bad)}: {_expected(ROLES)}, or what the data is joined or cut by")
    return dict(pair.split("=", 1) for pair in given)


def explaining(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the arguments and flags of `explain-gap`, which both programs have."""
    return _all(
        command,
        click.argument("bundle", type=PLACE),
        click.argument("valid", metavar="VALID"),
        option("--train", metavar="TRAIN", help="Training windows, to fit ridge, a small network and climatology to."),
        option("--reported", metavar="LOSS", help="The validation loss that training reported, with all its digits."),
        option(
            "--column",
            multiple=True,
            callback=columns(EXPLAINING_ROLES),
            metavar="ROLE=NAME",
            help="Name a role's column; repeatable. Here series and optimal are roles too.",
        ),
        option("--figure", type=click.Path(path_type=Path), metavar="FILE", help="Draw it too: .svg, .png or .pdf."),
        option("--json", "as_json", is_flag=True, help="Print the explanation as JSON."),
    )
