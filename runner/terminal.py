"""Keep stdout for the result, and turn every way a command can end into an exit code."""

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping

import click

from runner.errors import ExitCode, explain, told
from runner.stop import Stop


def run_command(command: click.Command, stop: Stop | None = None) -> int:
    """Run a click command; return its exit code. Messages go to stderr, the result to the real stdout.

    Args:
        command: is handed the stop as its context's object.
        stop: ends its work; without one nothing does.
    """
    with contextlib.ExitStack() as streams:
        try:
            result = streams.enter_context(result_stream())
        except OSError as error:
            return _refused(error)
        code = _run(command, stop or Stop())
        result.close()
        if result.lost:
            _say(explain("the result could not be written to stdout", got=result.lost.strerror or result.lost))
        return code or int(ExitCode.OUTPUT if result.lost else ExitCode.OK)


def end_of(run: Callable[[], int]) -> int:
    """Return what a process is to exit with, also where the command could not even begin.

    Nothing that was written waits in a buffer afterwards, for the process may end without looking.
    """
    fill_closed_descriptors()
    try:
        return run()
    except Exception as error:  # noqa: BLE001  (a thread that did not start, or a bug in the way out)
        return _refused(error)
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def _run(command: click.Command, stop: Stop) -> int:
    try:
        return int(command.main(standalone_mode=False, obj=stop) or 0)
    except click.ClickException as error:
        _say(error.format_message() if not isinstance(error, click.UsageError) else _usage(error))
        return int(ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        return int(ExitCode.SIGINT)
    except Exception as error:  # noqa: BLE001  (the one place where a bug ends)
        return _refused(error)


def _refused(error: Exception) -> int:
    refusal = told(error)
    if refusal is None:
        with contextlib.suppress(OSError, ValueError):
            traceback.print_exc()
        return int(ExitCode.BUG)
    _say(str(refusal))
    return int(refusal.exit_code)


def unknown_variables(group: click.Group, environment: Mapping[str, str]) -> dict[str, str | None]:
    """Return the variables that look as if they set a flag, and set none; with the nearest one that would.

    They are no reason to refuse a run: an orchestrator makes some by itself (FREERUN_PORT for a service of that name).
    """
    flags = [flag for command in group.commands.values() for flag in command.params]
    known = {str(flag.envvar) for flag in flags if flag.envvar}
    unknown = sorted(name for name in environment if name.startswith("FREERUN_") and name not in known)
    spared = [name for name in unknown if name.startswith("FREERUN_TEST_")]
    if len(unknown) == len(spared):
        return {}
    from difflib import get_close_matches

    return {name: next(iter(get_close_matches(name, known, 1, 0.85)), None) for name in unknown if name not in spared}


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
def result_stream() -> Iterator["LenientStream"]:
    """Point descriptor 1 at stderr, so that what native libraries print cannot mix with the result.

    `sys.stdout` keeps writing to the real stdout. Neither stream ever raises: a reader that has gone away is no error,
    neither are descriptors that the caller closed, and the work completes where messages cannot be written.
    """
    fill_closed_descriptors()
    before = sys.stdout, sys.stderr
    result = LenientStream(os.fdopen(os.dup(1), "wb"), encoding="utf-8", errors="backslashreplace")
    words = os.fdopen(2, "wb", closefd=False)
    os.dup2(2, 1)
    sys.stdout = result
    sys.stderr = LenientStream(words, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    try:
        yield result
    finally:
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
        result.close()


class LenientStream(io.TextIOWrapper):
    """Text to where it can be written.

    Attributes:
        lost: why not all of it was, if not because its reader went away.
    """

    lost: OSError | None = None

    def flush(self) -> None:
        with self._remembering():
            super().flush()

    def write(self, text: str) -> int:
        with self._remembering():
            super().write(text)
        return len(text)

    def close(self) -> None:
        with self._remembering():
            super().close()

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            pass
        except OSError as error:
            self.lost = self.lost or error


def fill_closed_descriptors() -> None:
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
    with contextlib.suppress(OSError, ValueError):  # before there is a lenient stderr
        click.echo(f"error: {text}", err=True)
