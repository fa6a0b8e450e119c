"""What a campaign found."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one kind of fault, injected again and again.

    Attributes:
        fault: the number in the list of faults, `F5`.
        what: one line for the table: what was done to whom.
        seed: what the draws were made of.
        tried, survived: how many faults; after how many of them every promise held.
        rows_lost, rows_doubled: rows of the input that were in the end in no part, or in more than one.
        torn: files seen, by whomever and at whatever moment, that were not whole.
        failures: one line for each fault that was not survived: how to repeat it, and what happened.
        peak_mib: the largest resident set of any process, in MiB; None where it was not watched.
        exit_p99: seconds from a signal to the exit, the 99th percentile; None where no signal was sent.
        seconds: how long it took.
    """

    fault: str
    what: str
    seed: int
    tried: int
    survived: int
    rows_lost: int = 0
    rows_doubled: int = 0
    torn: int = 0
    failures: tuple[str, ...] = ()
    peak_mib: float | None = None
    exit_p99: float | None = None
    seconds: float = 0.0
