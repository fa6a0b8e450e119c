"""Units of work, the parts made of them, and the footer that makes each part its own ledger."""

import json
from dataclasses import dataclass, fields
from typing import Any, Literal

from pydantic import TypeAdapter

from runner.totals import Score

FOOTER_KEY = b"freerun"


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of input that becomes one part.

    Attributes:
        path: the input file, relative to the dataset, with forward slashes.
        row_groups: first and last row group (inclusive); None = the whole file.
        rows: how many rows these are.
        size, sha256: of the whole input file.
    """

    path: str
    row_groups: tuple[int, int] | None
    rows: int
    size: int
    sha256: str

    @property
    def part_path(self) -> str:
        """Where the part goes, relative to the output folder."""
        if self.row_groups is None:
            return self.path
        first, last = self.row_groups
        return f"{self.path.removesuffix('.parquet')}.rg{first:05d}-{last:05d}.parquet"


@dataclass(frozen=True, slots=True)
class Part:
    """A finished output file, as its footer tells it.

    Attributes:
        options: the digest of the options that change numbers.
        rejects: count by reason code name.
        score: the part's sums; None where no row had a target.
        casts: columns that were cast to float32.
        format: the version of this footer.
    """

    unit: Unit
    bundle_id: str
    options: str
    mode: str
    device: str
    version: str
    scored: int
    rejects: dict[str, int]
    score: Score | None
    casts: tuple[str, ...] = ()
    format: Literal[1] = 1

    def encode(self) -> bytes:
        """Write the footer's JSON: sorted keys, floats that read back to the same bits."""
        return json.dumps(self, default=_fields, sort_keys=True, allow_nan=False).encode()


def _fields(value: Any) -> dict[str, Any]:
    """Return a value's fields as they are; `dataclasses.asdict` copies every number of them, one by one."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def decode_part(text: bytes) -> Part | None:
    """Read a footer's JSON back; None unless it is, byte for byte, what this version writes."""
    try:
        part = _FOOTER.validate_json(text, strict=True)
        return part if part.encode() == text else None
    except ValueError:  # pydantic's ValidationError is one
        return None


_FOOTER = TypeAdapter(Part)
