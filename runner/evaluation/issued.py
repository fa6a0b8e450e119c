"""The parts of an output folder, as their footers tell of them, and the rows in them, streamed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from runner.dataset import READ_ERRORS, first_line
from runner.errors import InputError, explain, listing
from runner.parts import PART_DIGEST_KEY, Part, decode_footer
from runner.stop import Stop
from runner.storage import OutputFolder

ROWS_AT_ONCE = 1 << 17
CELLS_AT_ONCE = 1 << 20
"""How many cells are joined at once: rows, or rows times the horizon where a row is a window."""


@dataclass(frozen=True, slots=True)
class IssuedPart:
    """A part that was found.

    Attributes:
        name: its path in the output folder.
        part: what its footer tells.
        digest: of the whole file, so that a replacement is noticed.
        schema: its columns.
    """

    name: str
    part: Part
    digest: bytes
    schema: pa.Schema

    @property
    def is_windows(self) -> bool:
        """Tell whether a row is a window, rather than a step."""
        kind = self.schema.field("prediction").type
        return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))

    def column(self, role: str) -> str:
        """Return the name of the column that a role has here."""
        return role if role in self.schema.names else self.part.columns.get(role, role)


def find_parts(out: OutputFolder, stop: Stop) -> tuple[list[IssuedPart], list[str]]:
    """Read all footers.

    Returns:
        The parts in the order of their paths, and the names of files that are none.

    Raises:
        InputError: no part is there, or some are of one layout and some of another.
    """
    parts, others = [], []
    for name in out.names():
        stop.check()
        with _opened(out, name) as file:
            footer = {} if file is None else file.metadata.metadata or {}
            part = decode_footer(footer)
            if file is None or part is None or "prediction" not in file.schema_arrow.names:
                others += [name] if file is not None else []
            else:
                parts.append(IssuedPart(name, part, footer.get(PART_DIGEST_KEY, b""), file.schema_arrow))
    if not parts:
        raise InputError(explain(f"{out.root} holds no part", expected="an --out of freerun score"))
    if len({part.is_windows for part in parts}) > 1:
        got = "rows that are windows, and rows that are steps"
        raise InputError(explain(f"the parts in {out.root} have two layouts", got=got, remedy="keep one layout an OUT"))
    return parts, others


def check_columns(parts: list[IssuedPart], roles: tuple[str, ...]) -> None:
    """Refuse parts without the columns that are needed.

    Raises:
        InputError: lists all that are missing.
    """
    found = [
        f"{part.name}: column '{part.column(role)}' is missing (columns: {', '.join(part.schema.names)})"
        for part in parts
        for role in roles
        if part.column(role) not in part.schema.names
    ]
    if found:
        remedy = "name columns that the parts have in --on"
        raise InputError(explain("the parts cannot be joined:" + listing(found[:20]), remedy=remedy))


def read_rows(
    out: OutputFolder, issued: IssuedPart, columns: list[str], stop: Stop, rows: int = ROWS_AT_ONCE
) -> Iterator[pa.RecordBatch]:
    """Yield a part's rows, in order, a bounded number at a time.

    Raises:
        InputError: the part is damaged, or another by now.
    """
    with _opened(out, issued.name) as file:
        if file is None or (file.metadata.metadata or {}).get(PART_DIGEST_KEY, b"") != issued.digest:
            raise InputError(explain(f"{issued.name} was replaced while it was read", remedy="run again"))
        try:
            for batch in file.iter_batches(rows, columns=columns, use_threads=False):
                stop.check()
                yield batch
        except READ_ERRORS as error:
            raise _damaged(issued.name, error) from error


@contextmanager
def _opened(out: OutputFolder, name: str) -> Iterator[pq.ParquetFile | None]:
    with out.opened(name) as stream:
        try:
            file = None if stream is None else pq.ParquetFile(stream, page_checksum_verification=True)
        except READ_ERRORS as error:
            raise _damaged(name, error) from error
        yield file


def _damaged(name: str, error: BaseException) -> InputError:
    remedy = "remove it, and run the scoring command again: it makes it anew"
    return InputError(explain(f"{name} is damaged", got=first_line(error), remedy=remedy))
