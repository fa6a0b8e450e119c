"""The commands that hold forecasts against what came true, and one bundle against another."""

import sys
from contextlib import redirect_stdout
from typing import Any, cast

import click

from runner.config import EXPLAINING_ROLES, ROLES
from runner.options import PLACE, check_roles, finite, option, pairs, rolling
from runner.stop import Stop


def _names(_ctx: click.Context, _param: click.Parameter, text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if "" in names or len(set(names)) != len(names):
        raise click.BadParameter(f"{text}: expected COLUMN[,COLUMN], each once")
    return names


@click.command()
@click.argument("out", type=PLACE)
@option("--actuals", required=True, metavar="DATASET", help="What came true, as far as it is known by now.")
@option(
    "--on", required=True, callback=_names, metavar="COLUMN[,COLUMN]", help="Key columns that OUT and the actuals have."
)
@option("--max-ratio", type=click.FloatRange(0), callback=finite, help="Live over certified loss; more is exit 15.")
@option(
    "--column", multiple=True, callback=pairs, metavar="ROLE=NAME", help="Name a column of the actuals; repeatable."
)
@option("--by-series", type=PLACE, metavar="FILE.parquet", help="Write a row for each series there.")
@option("--json", "as_json", is_flag=True, help="Print the evaluation as JSON.")
@click.pass_context
def evaluate(ctx: click.Context, /, *, as_json: bool, column: dict[str, str], **asked: Any) -> None:
    """Hold the forecasts in OUT, as issued, against what came true. OUT is only read."""
    from runner.evaluation.evaluate import evaluate as answer
    from runner.evaluation.question import Question
    from runner.evaluation.show import show

    report = answer(Question(columns=column, **asked), ctx.ensure_object(Stop))
    show(report, cast("Any", sys.stdout), as_json=as_json)
    _end(ctx, report.warnings, report.error, report.exit_code)


@click.command()
@click.argument("old", type=PLACE)
@click.argument("new", type=PLACE)
@click.argument("data", metavar="DATASET")
@option("--margin", type=click.FloatRange(0, 1), default=0.0, help="Share of the old loss that must be won, for sure.")
@option("--device", default="cpu", help="cpu or cuda[:n]; there is no falling back.")
@option("--precision", type=click.Choice(["fp32", "int8"]), default="fp32", help="Which of the bundles' graphs to run.")
@option(
    "--column",
    "columns",
    multiple=True,
    callback=pairs,
    metavar="ROLE=NAME",
    help="Name a role's column; repeatable. Here series is a role too.",
)
@option("--layout", type=click.Choice(["windows", "long"]), default="windows", help="What a row of DATASET is.")
@rolling
@option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@click.pass_context
def compare(ctx: click.Context, /, *, as_json: bool, columns: dict[str, str], **asked: Any) -> None:
    """Say whether NEW forecasts the windows of DATASET better than OLD, free-running; exit 15 where it does not."""
    from runner.comparison.compare import Comparison
    from runner.comparison.compare import compare as answer
    from runner.comparison.series import Cutting
    from runner.comparison.show import show

    if asked["layout"] == "windows":
        check_roles(columns, (*ROLES, *EXPLAINING_ROLES))
    cutting = Cutting(**{name: asked.pop(name) for name in ("stride", "origin_from", "origin_to", "freq")})
    with redirect_stdout(sys.stderr):
        report = answer(Comparison(columns=columns, cutting=cutting, **asked), ctx.ensure_object(Stop))
    show(report, cast("Any", sys.stdout), as_json=as_json)
    _end(ctx, (), report.error, report.exit_code)


def _end(ctx: click.Context, warnings: tuple[str, ...], error: str | None, code: int) -> None:
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if error:
        click.echo(f"error: {error}", err=True)
    ctx.exit(code)
