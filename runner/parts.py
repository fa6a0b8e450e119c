"""Units of work, the parts made of them, and the footer that makes each part its own ledger."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from runner.totals import ErrorSums, Score

FOOTER_KEY = b"freerun"
FOOTER_VERSION = 1


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
        casts: columns that were cast from float64.
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

    def encode(self) -> bytes:
        """Write the footer's JSON: sorted keys, floats that read back to the same bits."""
        return json.dumps({"format": FOOTER_VERSION, **asdict(self)}, sort_keys=True, allow_nan=False).encode()


def decode_part(text: bytes) -> Part | None:
    """Read a footer's JSON back; None where it is none of ours or of another format."""
    try:
        raw = json.loads(text)
        if raw.pop("format") != FOOTER_VERSION:
            return None
        return Part(**{**raw, "unit": _unit(raw["unit"]), "score": _score(raw["score"]), "casts": tuple(raw["casts"])})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _unit(raw: dict[str, Any]) -> Unit:
    groups = raw["row_groups"]
    return Unit(**{**raw, "row_groups": (groups[0], groups[1]) if groups else None})


def _sums(raw: dict[str, list[float]]) -> ErrorSums:
    return ErrorSums(**{name: tuple(values) for name, values in raw.items()})


def _score(raw: dict[str, Any] | None) -> Score | None:
    if raw is None:
        return None
    return Score(
        windows=raw["windows"],
        observed=tuple(raw["observed"]),
        model=_sums(raw["model"]),
        last=_sums(raw["last"]),
        seasonal=_sums(raw["seasonal"]) if raw["seasonal"] else None,
    )
