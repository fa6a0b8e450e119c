"""The errors that freerun raises itself, and the exit codes that scripts read."""

import errno
import os
import re
from collections.abc import Iterator
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What a process exits with; only BUSY means "the same command may work in a moment"."""

    OK = 0
    BUG = 1
    USAGE = 2
    TOO_MANY_REJECTS = 10
    INPUT = 11
    BUNDLE = 12
    DEVICE = 13
    OUTPUT = 14
    SCORE = 15
    CERTIFY = 16
    BUSY = 75
    SIGINT = 130
    SIGTERM = 143


SIGNS = {
    "threads": ("can't start new thread", "pthread_create", "launch worker thread"),
    "file descriptors": (os.strerror(errno.EMFILE), os.strerror(errno.ENFILE)),
    "memory": (
        os.strerror(errno.ENOMEM),
        "std::bad_alloc",
        "Failed to allocate memory",
        "failed to map segment",
        "malloc of size",
    ),
}
"""What the messages of libraries and of the operating system hold when something runs out."""
MODEST_BYTES = 1 << 26
HIGHER = {
    "threads": "or a higher limit of threads (ulimit -u) and address space (ulimit -v)",
    "file descriptors": "or a higher limit (ulimit -n)",
    "memory": "a smaller --batch-size, or a higher limit",
}


class FreerunError(Exception):
    """The base of all errors whose message is meant for the user; carries one finished message."""

    exit_code: ClassVar[ExitCode] = ExitCode.BUG


class UsageError(FreerunError, ValueError):
    """The command, its flags or its configuration cannot be followed."""

    exit_code = ExitCode.USAGE


class InputError(FreerunError, ValueError):
    """The data cannot be read, or is not what the bundle needs."""

    exit_code = ExitCode.INPUT


class BundleError(FreerunError, ValueError):
    """The bundle is missing, altered, of an unknown version, or does not reproduce its own forecasts."""

    exit_code = ExitCode.BUNDLE


class DeviceError(FreerunError, RuntimeError):
    """The device asked for was not granted, or was lost."""

    exit_code = ExitCode.DEVICE


class OutputError(FreerunError, OSError):
    """The output cannot be written."""

    exit_code = ExitCode.OUTPUT


class ResourcesError(FreerunError, RuntimeError):
    """Memory, threads or file descriptors ran out, or the run took more memory than it was given."""

    exit_code = ExitCode.OUTPUT


class CertificationError(FreerunError, ValueError):
    """The exported graphs do not do what the Keras model does."""

    exit_code = ExitCode.CERTIFY


class BusyError(FreerunError, RuntimeError):
    """Another run holds the lock of the output folder."""

    exit_code = ExitCode.BUSY


class InterruptedRunError(FreerunError, RuntimeError):
    """A signal, or the time that is up, asked the run to stop."""

    exit_code = ExitCode.SIGTERM


class InterruptedBySigintError(InterruptedRunError):
    """SIGINT asked the run to stop."""

    exit_code = ExitCode.SIGINT


def explain(what: str, *, got: object = None, expected: object = None, remedy: str | None = None) -> str:
    """Compose an error message: what is wrong, and below it got, expected and remedy where they are known."""
    facts = {"got": got, "expected": expected, "remedy": remedy}
    return "\n".join([what, *(f"  {name}: {fact}" for name, fact in facts.items() if fact is not None)])


def listing(offenders: list[str]) -> str:
    """Put each offender on a line of its own, below the sentence that names them."""
    return "".join(f"\n  - {offender}" for offender in offenders)


def told(error: BaseException) -> FreerunError | None:
    """Return what the user is to hear of an error; None where it is a bug.

    What ran out, or a device that was lost, is told as such whichever stage met it first and wrapped it as a fault of
    its own input, bundle or output. But damaged files ask for any amount of memory: that is their fault, once wrapped.
    """
    wrapped = isinstance(error, FreerunError)
    for link in _chain(error):
        if isinstance(link, ResourcesError | DeviceError):
            return link
        lack = lacking(link)
        if lack and not (wrapped and lack == "memory" and not _modest(link)):
            return ran_out(lack, link)
    return error if isinstance(error, FreerunError) else None


def _modest(error: BaseException) -> bool:
    """Tell whether pyarrow failed to get no more memory than an undamaged file may need at once."""
    asked = re.findall(r"malloc of size (\d+) failed", str(error))
    return bool(asked) and max(map(int, asked)) <= MODEST_BYTES


def lacking(error: BaseException) -> str | None:
    """Name what the process ran out of, if that is what an error says; libraries say it in words alone."""
    if isinstance(error, MemoryError):
        return "memory"
    text = str(error)
    return next((lack for lack, said in SIGNS.items() if any(sign in text for sign in said)), None)


def ran_out(lack: str, noticed: BaseException | str) -> ResourcesError:
    """Tell that the process ran out of something, in the words of who noticed."""
    lines = [line.strip() for line in str(noticed).splitlines() if line.strip()] or [type(noticed).__name__]
    got = next((line for line in lines if any(sign in line for sign in SIGNS[lack])), lines[0])
    if isinstance(noticed, FreerunError) and got != lines[0]:
        got = f"{lines[0].removesuffix(':')}: {got.removeprefix('got: ')}"
    what = f"{lack} ran out: committed parts are whole, the same command resumes"
    return ResourcesError(explain(what, got=got, remedy=f"fewer --workers, {HIGHER[lack]}"))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and what it was raised from."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__
