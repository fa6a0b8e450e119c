"""Keep stdout for the result, and turn every way a command can end into an exit code."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from typing import IO

import click

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


@contextlib.contextmanager
def result_stream() -> Iterator[IO[str]]:
    """Point descriptor 1 at stderr, so that what native libraries print cannot mix with the result.

    `sys.stdout` keeps writing to the real stdout; a reader that has gone away is no error.
    """
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # closed by the caller: there is nobody to write to
        kept = os.open(os.devnull, os.O_WRONLY)
    stream = os.fdopen(kept, "w", encoding="utf-8", errors="backslashreplace")
    before, sys.stdout = sys.stdout, stream
    try:
        yield stream
    finally:
        sys.stdout = before
        with contextlib.suppress(OSError, ValueError):
            stream.close()
        with contextlib.suppress(OSError, ValueError):
            before.close()


def _usage(error: click.UsageError) -> str:
    where = error.ctx.command_path if error.ctx else "freerun"
    return f"{error.format_message()}\n  remedy: {where} --help lists what there is"


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        click.echo(f"error: {text}", err=True)
