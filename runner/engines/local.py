"""Run the units one after the other in this process; batches inside a unit are decoded by several threads."""

from collections.abc import Callable, Iterable, Iterator

from runner.errors import InputError
from runner.parts import Part, Unit


def run_units(units: Iterable[Unit], work: Callable[[Unit], Part]) -> Iterator[tuple[Unit, Part | InputError]]:
    """Yield each unit with its part, or with the error that stands in its way, in the order given.

    Only errors that concern one unit alone are handed on; whatever else is raised ends the run.
    """
    for unit in units:
        try:
            yield unit, work(unit)
        except InputError as error:
            yield unit, error
