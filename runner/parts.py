"""Units of work, the parts made of them, and the footer that makes each part its own ledger."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from pydantic import TypeAdapter

from runner.manifest import Manifest
from runner.precision import Precision
from runner.totals import Score

FOOTER_KEY = b"freerun"
LEDGER_DIGEST_KEY = b"freerun.ledger_sha256"
"""Of what stands under FOOTER_KEY: a footer is read without the file around it."""
PART_DIGEST_KEY = b"freerun.part_sha256"
"""Of the whole file, with this one value blank."""
BLANK = b"0" * 64
FOOTER_END = 8
"""Bytes behind a Parquet footer: its length, and the magic word."""
_DIGEST_FOLLOWS = PART_DIGEST_KEY + b"\x18\x40"
"""How Parquet's footer writes that key, and that 64 bytes of text follow (Thrift's compact protocol)."""


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
class Maker:
    """What is known of the bundle that made a part, so that its forecasts can be judged where the bundle is not.

    Attributes:
        target: the target's name.
        scale: the target's deviation, in raw units.
        horizon: H.
        season_length: steps of a season; None where none was given.
        precision: which of the bundle's forms ran.
        masked_mse, observed_mse: certified for that precision and the part's mode, in squared target units; None where
            nothing was observed.
    """

    target: str
    scale: float
    horizon: int
    season_length: int | None
    precision: Precision
    masked_mse: float | None
    observed_mse: float | None


def maker_of(manifest: Manifest, mode: str, precision: Precision) -> Maker:
    """Return what a part tells of its bundle.

    Raises:
        BundleError: the bundle does not hold that precision.
    """
    certified = manifest.form(precision).certified
    loss = certified.teacher_forced if mode == "teacher-forced" else certified.free_running
    target = manifest.target
    return Maker(
        target.name,
        target.scale,
        manifest.horizon,
        manifest.season_length,
        precision,
        loss.masked_mse,
        loss.observed_mse,
    )


@dataclass(frozen=True, slots=True)
class Part:
    """A finished output file, as its footer tells it.

    Attributes:
        options: the digest of the options that change numbers.
        maker: what is known of the bundle.
        columns: role -> column name, where the run mapped it.
        rejects: count by reason code name.
        score: the part's sums; None where no row had a target.
        casts: columns that were cast to float32.
        filled: rejects that got a naive forecast.
        layout: what a row of the input is.
        rows_a_window: rows of the part for each window: 1, or H where a row is a step.
        format: the version of this footer.
    """

    unit: Unit
    bundle_id: str
    options: str
    mode: str
    device: str
    version: str
    maker: Maker
    columns: dict[str, str]
    scored: int
    rejects: dict[str, int]
    score: Score | None
    casts: tuple[str, ...] = ()
    filled: int = 0
    layout: Literal["windows", "long"] = "windows"
    rows_a_window: int = 1
    format: Literal[1] = 1

    def encode(self) -> bytes:
        """Write the footer's JSON: sorted keys, floats that read back to the same bits."""
        return json.dumps(self, default=_fields, sort_keys=True, allow_nan=False).encode()


def _fields(value: Any) -> dict[str, Any]:
    """Return a value's fields as they are; `dataclasses.asdict` copies every number of them, one by one."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def footer_of(part: Part) -> dict[bytes, bytes]:
    """Return what a part's footer says beside Parquet's own: the ledger, its digest, and room for the file's."""
    text = part.encode()
    return {FOOTER_KEY: text, LEDGER_DIGEST_KEY: _sha256(text), PART_DIGEST_KEY: BLANK}


def decode_footer(footer: Mapping[bytes, bytes]) -> Part | None:
    """Read a footer back; None unless it is, byte for byte, what this version writes."""
    text = footer.get(FOOTER_KEY, b"")
    if footer.get(LEDGER_DIGEST_KEY) != _sha256(text):
        return None
    try:
        part = _FOOTER.validate_json(text, strict=True)
        return part if part.encode() == text else None
    except ValueError:  # pydantic's ValidationError is one
        return None


def footer_size(end: bytes) -> int:
    """Return how many bytes a Parquet file's footer takes, from the last FOOTER_END bytes, those included."""
    return FOOTER_END + int.from_bytes(end[:4], "little")


def digest_offset(footer: bytes) -> int | None:
    """Return where in a file's last bytes the digest of the whole file stands; None where there is no room for it."""
    found = footer.rfind(_DIGEST_FOLLOWS)
    offset = found + len(_DIGEST_FOLLOWS)
    return offset if found >= 0 and offset + len(BLANK) <= len(footer) else None


def _sha256(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


_FOOTER = TypeAdapter(Part)
