"""The columns that scoring leaves alone, and an explanation looks at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from runner.batch import F32, Index
from runner.columns import read_cells, type_problem
from runner.config import EXPLAINING_ROLES
from runner.schema import Sizes

EXTRA_ROLES = (*EXPLAINING_ROLES, "prediction")
"""prediction: what somebody forecast, NaN or null where there is nothing [H]; read only where its column is named."""
FORECASTS = ("optimal", "prediction")


@dataclass(frozen=True, slots=True)
class Extra:
    """What some rows have in these columns.

    Attributes:
        series: the name of each row's series [N]; None where the data has none.
        optimal, prediction: forecasts, NaN where there is nothing [N, H]; None where the data has none.
    """

    series: list[str] | None
    optimal: F32 | None
    prediction: F32 | None


def names_of(columns: Mapping[str, str]) -> dict[str, str]:
    """Return the column of each extra role that is to be read where it is there."""
    return {role: columns.get(role, role) for role in EXTRA_ROLES if role in columns or role in EXPLAINING_ROLES}


def problems_of(schema: pa.Schema, columns: Mapping[str, str], sizes: Sizes) -> list[str]:
    """Return a line for each thing wrong with the extra columns of a file."""
    absent = [columns[role] for role in EXTRA_ROLES if role in columns and columns[role] not in schema.names]
    problems = [f"column '{name}' is missing (columns: {', '.join(schema.names)})" for name in absent]
    for role, name in names_of(columns).items():
        if schema.names.count(name) == 1:
            kind = schema.field(name).type
            found = type_problem(kind, sizes.shape("target"), flags=False) if role in FORECASTS else _unnamed(kind)
            problems += [f"column '{name}' ({role}): {found}"] if found else []
    return problems


def read_extra(block: pa.RecordBatch, rows: Index, names: Mapping[str, str], sizes: Sizes) -> Extra:
    """Read the extra columns of some rows of a block."""
    there = {role: name for role, name in names.items() if name in block.schema.names}
    series = None
    if "series" in there:
        series = [repr(name) for name in block.column(there["series"]).take(pa.array(rows)).to_pylist()]
    forecasts = {role: _forecast(block.column(there[role]), rows, sizes) for role in FORECASTS if role in there}
    return Extra(series, forecasts.get("optimal"), forecasts.get("prediction"))


def join_extra(pieces: Sequence[Extra]) -> Extra:
    """Return all pieces in one; a column that some files have not counts as not there."""
    series, optimal, prediction = (
        [getattr(piece, role) for piece in pieces] for role in ("series", "optimal", "prediction")
    )
    return Extra(
        None if None in series else [name for names in series for name in names],
        None if any(found is None for found in optimal) else np.concatenate(optimal),
        None if any(found is None for found in prediction) else np.concatenate(prediction),
    )


def numbers_of(names: list[str]) -> Index:
    """Number series in the order in which they first appear [N]."""
    numbers = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.intp)


def _unnamed(kind: pa.DataType) -> str | None:
    """Say why values of this type name no series: of some times and lists, Python makes no value at all."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_temporal(value) or pa.types.is_nested(value):
        return f"{kind}, expected text or integers"
    return None


def _forecast(column: pa.Array, rows: Index, sizes: Sizes) -> F32:
    cells = read_cells(column, sizes.shape("target"))
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is no forecast
        values = cells.values.reshape(len(cells.values), -1)
        return np.where((cells.absent | cells.misfit)[:, None], np.nan, values)[rows].astype(np.float32)
