"""The errors that freerun raises itself, and the exit codes that scripts read."""

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
    """The device asked for was not granted."""

    exit_code = ExitCode.DEVICE


class OutputError(FreerunError, OSError):
    """The output cannot be written."""

    exit_code = ExitCode.OUTPUT


class CertificationError(FreerunError, ValueError):
    """The exported graphs do not do what the Keras model does."""

    exit_code = ExitCode.CERTIFY


class BusyError(FreerunError, RuntimeError):
    """Another run holds the lock of the output folder."""

    exit_code = ExitCode.BUSY


class InterruptedRunError(FreerunError, RuntimeError):
    """A signal asked the run to stop."""

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
