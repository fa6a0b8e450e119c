"""Keep stdout for the result, and turn every way a command can end into an exit code."""

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Iterator
from typing import IO

import click

from runner.config import ROLES
from runner.errors import ExitCode, FreerunError


def run_command(command: click.Command) -> int:
    """Run a click command; return its exit code. Messages go to stderr, the result to the real stdout."""
    with result_stream():
        try:
            code = command.main(standalone_mode=False)
            return int(code or 0)
        except click.ClickException as error:
            _say(error.format_message() if not isinstance(error, click.UsageError) else _usage(error))
            return int(ExitCode.USAGE)
        except (click.Abort, KeyboardInterrupt):
            _say("interrupted")
            return int(ExitCode.SIGINT)
        except FreerunError as error:
            _say(str(error))
            return int(error.exit_code)
        except Exception:  # noqa: BLE001  (the one place where a bug ends)
            with contextlib.suppress(OSError, ValueError):
                traceback.print_exc()
            return int(ExitCode.BUG)


def columns(_ctx: click.Context, _param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    """Read the values of a repeatable ROLE=NAME option."""
    bad = [pair for pair in pairs if pair.partition("=")[0] not in ROLES or not pair.partition("=")[2]]
    if bad:
        raise click.BadParameter(f"{', '.join(bad)}: expected ROLE=NAME, where ROLE is one of {', '.join(ROLES)}")
    return dict(pair.split("=", 1) for pair in pairs)


class WithoutPandas:
    """A finder that knows no pandas.

    pyarrow imports pandas the first time that it makes an array, to see whether it was given one of its series. Where
    pandas happens to be installed that takes a second, and nothing here uses it.
    """

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> None:
        """Refuse pandas; leave every other module to the next finder."""
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not used here", name=name)


@contextlib.contextmanager
def result_stream() -> Iterator[IO[str]]:
    """Point descriptor 1 at stderr, so that what native libraries print cannot mix with the result.

    `sys.stdout` keeps writing to the real stdout; a reader that has gone away is no error, and neither are descriptors
    that the caller closed.
    """
    _fill_closed_descriptors()
    stream = _ResultStream(os.fdopen(os.dup(1), "wb"), encoding="utf-8", errors="backslashreplace")
    os.dup2(2, 1)
    before, sys.stdout = sys.stdout, stream
    try:
        yield stream
    finally:
        sys.stdout = before
        stream.close()


class _ResultStream(io.TextIOWrapper):
    """Text to the real stdout; once its reader has gone away, to nowhere."""

    def flush(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            super().flush()

    def write(self, text: str) -> int:
        with contextlib.suppress(BrokenPipeError):
            super().write(text)
        return len(text)

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            super().close()


def _fill_closed_descriptors() -> None:
    """Open /dev/null where stdin, stdout or stderr is closed, before a data file gets its number."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  (lives as long as the process)


def _usage(error: click.UsageError) -> str:
    where = error.ctx.command_path if error.ctx else "freerun"
    return f"{error.format_message()}\n  remedy: {where} --help lists what there is"


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        click.echo(f"error: {text}", err=True)
