"""The command line of the runner: parse, run, print, exit."""

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import click

from runner import __version__
from runner.config import ROLES, Job
from runner.errors import InputError, UsageError, explain, listing, told
from runner.gates import compare, evaluate
from runner.options import PLACE, check_roles, cutting, explaining, finite, job_file, only, option, pairs
from runner.partition import partition_of
from runner.stop import Limits, Stop
from runner.supervise import resident_megabytes, supervise
from runner.terminal import WithoutPandas, end_of, run_command, unknown_variables

if TYPE_CHECKING:
    from runner.report import Report


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(__version__, prog_name="freerun")
def cli() -> None:
    """Score Parquet with a certified forecaster. Exit codes: see the README."""
    for name, nearest in unknown_variables(cli, os.environ).items():
        meant = f"; did you mean {nearest}?" if nearest else ""
        click.echo(f"warning: {name} is set, but no flag listens to it{meant}", err=True)


@cli.command()
@click.argument("bundle", type=PLACE)
@click.argument("input", metavar="INPUT")
@option("--out", required=True, type=PLACE, help="Folder for parts, report and ledger.")
@option("--mode", type=click.Choice(["free-running", "teacher-forced"]), default="free-running")
@option("--device", default="cpu", help="cpu or cuda[:n]; there is no falling back.")
@option("--precision", type=click.Choice(["fp32", "int8"]), default="fp32", help="Which of the bundle's graphs to run.")
@option("--workers", type=click.IntRange(1, 1024), help="Decoding threads.  [default: the processors granted]")
@option("--batch-size", type=click.IntRange(1, 1 << 20), help="Windows in one call.  [default: measured, else 128]")
@option("--column", multiple=True, callback=pairs, metavar="ROLE=NAME", help="Name a role's column; repeatable.")
@option(
    "--max-reject-rate",
    type=click.FloatRange(0, 1),
    callback=finite,
    default=0.01,
    help="More rejects than this is exit 10.",
)
@option("--max-masked-mse", type=click.FloatRange(0), callback=finite, help="A worse score than this is exit 15.")
@option(
    "--rescore",
    type=click.Choice(["changed", "none", "all"]),
    default="changed",
    help="Parts of another bundle or other options: refuse, keep, or replace them.",
)
@option("--orphans", type=click.Choice(["keep", "refuse", "prune"]), default="keep", help="Parts whose input is gone.")
@only
@option("--recheck", is_flag=True, help="Hash every input file again, whatever the ledger remembers.")
@option(
    "--fallback", type=click.Choice(["last", "seasonal"]), help="A naive forecast for each reject, where one can be."
)
@option("--layout", type=click.Choice(["windows", "long"]), default="windows", help="What a row of INPUT is.")
@cutting
@option("--rows-per-part", type=click.IntRange(1), default=1_000_000, help="Cut larger files by row groups.")
@option("--expect-bundle-id", metavar="ID", help="Refuse any other bundle.")
@option("--allow-empty", is_flag=True, help="An input without files is fine.")
@option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    callback=finite,
    metavar="SECONDS",
    help="End as SIGTERM would: exit 143, and the same command resumes.",
)
@option("--max-memory", type=click.IntRange(1), metavar="MB", help="More resident memory than this is exit 14.")
@option("--dry-run", is_flag=True, help="Say what would be done, and touch nothing.")
@option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@option("--quiet", is_flag=True, help="Print errors only; warnings stay in the report.")
@click.option(
    "--config",
    callback=job_file,
    is_eager=True,
    expose_value=False,
    metavar="JOB.toml",
    help="Defaults for all of these.",
)
@click.pass_context
def score(ctx: click.Context, /, *, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Forecast every window of INPUT with BUNDLE, write Parquet that mirrors it, and score what has a target."""
    job, stop = _job(settings), ctx.ensure_object(Stop)
    if job.max_memory and not resident_megabytes():
        raise UsageError(explain("--max-memory cannot be watched here", expected="/proc/self/statm"))
    stop.limits = Limits(job.timeout, job.max_memory)
    from runner import display

    try:
        report = _score(job, stop, show_progress=not (as_json or quiet))
    except Exception as error:
        if as_json:
            click.echo(display.refusal_as_json(told(error) or error), nl=False)
        raise
    if as_json:
        click.echo(display.as_json(report), nl=False)
    elif not quiet:
        display.print_report(report, cast("Any", sys.stdout))
    for warning in () if quiet else report.warnings:
        click.echo(f"warning: {warning}", err=True)
    if report.error:
        click.echo(f"error: {report.error}", err=True)
    ctx.exit(report.exit_code)


@cli.command()
@click.argument("bundle", type=PLACE)
@option("--device", default="cpu", help="cpu or cuda[:n]; there is no falling back.")
@click.pass_context
def verify(ctx: click.Context, bundle: Path, device: str) -> None:
    """Check every byte of BUNDLE and replay its golden windows on this machine."""
    from runner.bundle import audit_bundle, open_bundle
    from runner.device import parse_device
    from runner.forecaster import Decoding, open_forecaster

    granted, stop = parse_device(device), ctx.ensure_object(Stop)
    opened = audit_bundle(open_bundle(bundle))
    allowed, lines = opened.manifest.tolerances.golden, []
    for precision in opened.manifest.held():
        how = Decoding(granted, precision, min(64, opened.largest_batch(precision, granted)), workers=1)
        with redirect_stdout(sys.stderr), open_forecaster(opened, how, stop) as forecaster:
            lines.append(
                f"golden windows on {granted}, {precision}: {forecaster.golden_difference:.3g} deviations of the target"
            )
    click.echo(f"good: bundle {opened.manifest.bundle_id}")
    click.echo("\n".join(f"{line} apart, allowed {allowed:.3g}" for line in lines))


@cli.command("verify-output")
@click.argument("out", type=PLACE)
@only
@click.pass_context
def check_output(ctx: click.Context, out: Path, only: tuple[str, ...]) -> None:
    """Read every byte of OUT: are its parts whole, and does the report say what they say? Changes nothing."""
    from runner.lock import undisturbed
    from runner.storage import OutputFolder
    from runner.verify_output import verify_output

    folder = OutputFolder(out, within=partition_of(only))
    if not folder.home.is_dir():
        raise InputError(explain(f"{folder.home} is no folder", expected="an --out of freerun score"))
    with undisturbed(folder):
        found = verify_output(folder, ctx.ensure_object(Stop))
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if found.problems:
        what = f"{folder.home} is not as freerun left it:" + listing(list(found.problems))
        remedy = "remove the parts named, and run the scoring command again: it makes them anew"
        raise InputError(explain(what, remedy=remedy))
    complete = "complete" if found.complete else "not complete"
    click.echo(f"good: {found.parts} parts, {found.rows.read:,} rows ({found.rows.rejected:,} rejected), {complete}")


@cli.command()
@click.argument("bundle", type=PLACE)
@option("--device", default="cpu", help="cpu or cuda[:n]; there is no falling back.")
@option("--seconds", type=click.FloatRange(0.1, 3600), callback=finite, default=10.0, help="Time for all of it.")
@option("--json", "as_json", is_flag=True, help="Print the measurements as JSON.")
@click.pass_context
def bench(ctx: click.Context, bundle: Path, device: str, *, seconds: float, as_json: bool) -> None:
    """Measure how fast this machine decodes with BUNDLE, and remember it: `freerun score` then chooses accordingly."""
    from runner.bundle import audit_bundle, open_bundle
    from runner.device import parse_device
    from runner.display import bench_as_json, print_bench
    from runner.tune import bench_bundle

    granted = parse_device(device)
    opened = audit_bundle(open_bundle(bundle))
    with redirect_stdout(sys.stderr):
        found = bench_bundle(opened, granted, seconds, ctx.ensure_object(Stop))
    if as_json:
        click.echo(bench_as_json(opened.bundle, granted, found), nl=False)
    else:
        print_bench(found, cast("Any", sys.stdout))


@cli.command("explain-gap")
@explaining
@click.pass_context
def explain_the_gap(ctx: click.Context, /, **asked: Any) -> None:
    """Say why BUNDLE's free-running loss on VALID is not the loss that training reported, and what can be won back."""
    from runner.gap.ask import answer

    answer(asked, ctx.ensure_object(Stop), lambda line: click.echo(line, err=True))


@cli.command()
@click.argument("bundle", type=PLACE)
@option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def inspect(bundle: Path, *, as_json: bool) -> None:
    """Say what BUNDLE is, what it takes, and what was certified. Runs nothing."""
    from runner import display
    from runner.bundle import audit_bundle, open_bundle

    opened = audit_bundle(open_bundle(bundle))
    if as_json:
        click.echo(display.as_json(opened.manifest), nl=False)
    else:
        display.print_inspection(opened.bundle, opened.facts, cast("Any", sys.stdout))


cli.add_command(evaluate)
cli.add_command(compare)


def _job(settings: dict[str, Any]) -> Job:
    job = Job(columns=settings.pop("column"), **settings)
    if job.layout == "windows":
        check_roles(job.columns, ROLES)
    return job


def _score(job: Job, stop: Stop, *, show_progress: bool) -> "Report":
    """Run the job, with a bar where somebody is watching; what libraries print meanwhile is no result."""
    from runner.display import progress_bar
    from runner.run import run_job

    with redirect_stdout(sys.stderr), progress_bar(sys.stderr, wanted=show_progress) as advance:
        return run_job(job, stop, advance)


def main() -> NoReturn:
    """Run the command line in a thread that signals cannot interrupt, and end the process with its code.

    The process ends at once: Python's own way out takes the handlers away first, and waits for threads deep in a graph.
    """
    sys.meta_path.insert(0, WithoutPandas)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads only get in the way of ours
    os._exit(end_of(lambda: supervise(lambda stop: run_command(cli, stop))))


if __name__ == "__main__":
    main()
