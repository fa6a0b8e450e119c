"""The command line of the exporter: parse, run, print, exit."""

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from runner import __version__
from runner.config import ROLES
from runner.errors import ExitCode
from runner.options import PLACE, check_roles, columns, explaining, finite, pairs
from runner.stop import Stop
from runner.supervise import supervise
from runner.terminal import end_of, run_command

if TYPE_CHECKING:
    from export.recipe import InputLayout
    from export.release import Released

PROCESSES = ("ar1", "random-walk", "bistable", "mackey-glass", "sine")
"""Names of what `demo-data` can draw, spelled out so that --help need not load numpy."""

KEPT = {"start": "start: none of the further epochs", "control": "control: more teacher forcing"}
"""What the two outcomes of `auto` mean that are no strategies."""


def laid_out(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags that say what its data looks like."""
    kinds, what = click.Choice(["windows", "long"]), "A row of the data is a window, or a time step of a series."
    layout = click.option("--layout", type=kinds, default="windows", show_default=True, help=what)
    column = click.option(
        "--column", multiple=True, callback=pairs, metavar="ROLE=NAME", help="Name a role's column; repeatable."
    )
    return layout(column(command))


def _start(_ctx: click.Context, _param: click.Parameter, given: str) -> float | Literal["last"]:
    if given == "last":
        return "last"
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise click.BadParameter(f"{given}: expected a number, or last")
    return value


def _features(_ctx: click.Context, _param: click.Parameter, given: str) -> int | tuple[int, ...]:
    words = given.split(",")
    if not all(word.isdecimal() for word in words):
        raise click.BadParameter(f"{given}: expected an index from 0 on, or several with commas between")
    indices = tuple(map(int, words))
    return indices if len(indices) > 1 else indices[0]


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(__version__, prog_name="freerun-export")
def cli() -> None:
    """Train forecasters, and write them as certified bundles."""


@cli.command("demo-data")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--process",
    type=click.Choice(PROCESSES),
    default="ar1",
    show_default=True,
    help="What to draw; docs/processes.md says what each shows.",
)
@click.option("--train-windows", type=click.IntRange(1), default=67_397, show_default=True)
@click.option("--valid-windows", type=click.IntRange(1), default=3_389, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def demo_data(folder: Path, process: str, train_windows: int, valid_windows: int, seed: int) -> None:
    """Write windows with a known optimal forecast to DIR/train and DIR/valid, and a config to train on them."""
    from export.demo_data import PROCESSES, write_demo

    for name in write_demo(folder, train_windows, valid_windows, seed, PROCESSES[process]):
        click.echo(folder / name)


@cli.command()
@click.argument("train_data", metavar="TRAIN")
@click.option("--valid", required=True, metavar="VALID", help="Data that judges every epoch and certifies the bundle.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The bundle's folder; must not exist.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE.toml")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key of the config; repeatable.")
@laid_out
def train(
    train_data: str,
    valid: str,
    out: Path,
    config: Path | None,
    settings: tuple[str, ...],
    column: dict[str, str],
    layout: "InputLayout",
) -> None:
    """Train on TRAIN, certify on VALID, and write the bundle. A killed training resumes with the same command."""
    from export.config import load_config
    from export.pipeline import Data, train_bundle
    from export.progress import display_callbacks, require_tensorboard, tensorboard_callbacks

    chosen = load_config(config, settings)
    if chosen.tensorboard:
        require_tensorboard()

    def callbacks(folder: Path) -> list[Any]:
        return display_callbacks(sys.stderr) + (tensorboard_callbacks(folder) if chosen.tensorboard else [])

    data = Data(train_data, valid, _known(column, layout), layout)
    exported = train_bundle(data, out, chosen, lambda line: click.echo(line, err=True), callbacks)
    choice = exported.choice
    strategy = {"strategy": f"{choice.asked}, kept {KEPT.get(choice.kept, choice.kept)}"} if choice.trials else {}
    _print_released(out, exported.released, strategy)


@cli.command()
@click.argument("model", metavar="MODEL.keras", type=click.Path(path_type=Path))
@click.option(
    "--valid", required=True, metavar="VALID", help="Windows that certify the bundle, as MODEL was trained on."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The bundle's folder; must not exist.")
@click.option("--trust-model", is_flag=True, help="A .keras file is a program; you know where this one comes from.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE.toml")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key of the config; repeatable.")
@click.option(
    "--column", multiple=True, callback=columns(), metavar="ROLE=NAME", help="Name a role's column; repeatable."
)
@click.option(
    "--scaler", type=PLACE, metavar="FILE.json", help="How the data was scaled before MODEL; goes into the graphs."
)
def convert(*, model: Path, out: Path, trust_model: bool, **given: Any) -> None:
    """Take the trained MODEL.keras apart, certify it on VALID, and write the bundle.

    MODEL.keras is the training model (encoder's and decoder's input in, predictions out), or the inference model with
    its loop unrolled (encoder's input in). Exit 16: it cannot be run step by step, or not be written as ONNX; the
    message names the layer.
    """
    from export.config import load_bundle_config
    from export.convert import Source, convert_model

    config = load_bundle_config(given["config"], given["settings"])
    source = Source(model, given["valid"], given["column"], given["scaler"])
    converted = convert_model(source, out, config, lambda line: click.echo(line, err=True), trust=trust_model)
    told = {
        "training": {"fed back to Keras": f"changed by {converted.residual:.3g} deviations of the target"},
        "inference": {"step by step": f"{converted.residual:.3g} deviations of the target from its own forecast"},
    }
    _print_released(out, converted.released, told[converted.kind])


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--valid", required=True, metavar="VALID", help="Data that certifies the int8 graphs.")
@laid_out
def quantize(bundle: Path, valid: str, column: dict[str, str], layout: "InputLayout") -> None:
    """Add int8 graphs to BUNDLE if they forecast as well on VALID. The bundle gets another id."""
    from export.quantize import quantize_bundle

    manifest, form = quantize_bundle(bundle, valid, _known(column, layout), layout)
    _print_lines({"bundle": f"{bundle}", "bundle id": manifest.bundle_id, **_int8_lines(form.certificate)})


@cli.command("explain-gap")
@explaining
@click.option("--model", type=PLACE, metavar="MODEL.keras", help="The training model that BUNDLE was made from.")
@click.option(
    "--epochs",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Epochs to train it further, each way; needs --train.",
)
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Of that further training.")
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    callback=finite,
    default=0.001,
    show_default=True,
    help="Of that too.",
)
@click.option("--trust-model", is_flag=True, help="Open MODEL even if it may run code of its author.")
@click.pass_context
def explain_the_gap(ctx: click.Context, /, **asked: Any) -> None:
    """Say why BUNDLE's free-running loss on VALID is not the loss that training reported, and what can be won back."""
    from export.explain import model_opener
    from runner.gap.ask import answer

    def say(line: str) -> None:
        click.echo(line, err=True)

    answer(asked, ctx.ensure_object(Stop), say, model_opener(asked, say) if asked["model"] else None)


@cli.command()
@click.argument("model", metavar="MODEL.keras", type=click.Path(path_type=Path))
@click.argument("data", metavar="DATA")
@click.option("--predictions", required=True, metavar="COLUMN", help="Forecasts that MODEL is said to have made [H].")
@click.option("--trust-model", is_flag=True, help="A .keras file is a program; you know where this one comes from.")
@click.option(
    "--start", default="-1", callback=_start, metavar="NUMBER|last", help="The decoder's first input.  [default: -1]"
)
@click.option(
    "--target-feature", default="0", callback=_features, metavar="INDEX", help="In past; of several: 0,1.  [default: 0]"
)
@click.option(
    "--column", multiple=True, callback=columns(), metavar="ROLE=NAME", help="Name a role's column; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print the diagnosis as JSON.")
@click.pass_context
def doctor(ctx: click.Context, /, *, trust_model: bool, as_json: bool, **settings: Any) -> None:
    """Find out whether predictions in DATA are what MODEL.keras forecasts, and if not, what was done wrong.

    MODEL.keras is the training model. DATA has its inputs, the target, and the predictions; what `freerun score` writes
    has no inputs, and docs/doctor.md says how to join them. Where DATA has decoder_input, the first value of it is the
    start. Exit 16: the predictions are not the model's.
    """
    from export.audited import Question
    from export.doctor import diagnose
    from export.doctor_words import diagnosis_as_json, print_diagnosis
    from export.model_file import refuse_untrusted
    from export.pipeline import require_tensorflow, start_tensorflow

    question = Question(
        model=Path(settings["model"]),
        data=settings["data"],
        predictions=settings["predictions"],
        columns=settings["column"],
        start=settings["start"],
        feature=settings["target_feature"],
    )
    refuse_untrusted(question.model, trust=trust_model)
    require_tensorflow()
    start_tensorflow(0)
    found = diagnose(question, trust=trust_model)
    if as_json:
        click.echo(diagnosis_as_json(found), nl=False)
    else:
        print_diagnosis(found, sys.stdout)
    ctx.exit(ExitCode.OK if found.first_failing_step is None else ExitCode.CERTIFY)


def _known(columns: dict[str, str], layout: "InputLayout") -> dict[str, str]:
    """Refuse what is no role of a window; of series, features are roles too, so the data is matched first."""
    if layout == "windows":
        check_roles(columns, ROLES)
    return columns


def _print_released(out: Path, released: "Released", more: dict[str, str]) -> None:
    manifest, certified, found = released.manifest, released.manifest.certified, released.certificate
    _, score = found.runner
    lines = {
        "bundle": f"{out}",
        "bundle id": manifest.bundle_id,
        **more,
        "certified on": f"{certified.windows:,} windows",
        "  teacher-forced": f"masked MSE {certified.teacher_forced.masked_mse:.6g}",
        "  free-running": f"masked MSE {certified.free_running.masked_mse:.6g}",
        "  last value": f"masked MSE {score.masked_mse(score.last):.6g}",
        "Keras to ONNX": f"largest difference {found.largest:.3g}, allowed {found.tolerance:.3g}",
    }
    if "int8" in released.certified:
        lines |= _int8_lines(released.certified["int8"].certificate)
    _print_lines(lines)


def _int8_lines(certificate: dict[str, Any]) -> dict[str, str]:
    changed, allowed = certificate["change"]["free_running"], certificate["change_allowed"]
    loss = certificate["losses"]["int8"]["free_running"]["masked_mse"]
    return {"int8": f"free-running masked MSE {loss:.6g}, changed by {changed:+.3%}, allowed {allowed:.0%}"}


def _print_lines(lines: dict[str, str]) -> None:
    width = max(map(len, lines))
    for name, text in lines.items():
        click.echo(f"{name:<{width}}  {text}")


def main() -> NoReturn:
    """Run the command line in a thread that signals cannot interrupt, and end the process with its code.

    Otherwise whatever TensorFlow or Keras is importing or calling takes a Ctrl-C for an error of its own, and goes on.
    """
    os._exit(end_of(lambda: supervise(lambda stop: run_command(cli, stop))))


if __name__ == "__main__":
    main()
