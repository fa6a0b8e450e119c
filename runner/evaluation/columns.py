"""Which columns of the actuals are the keys, the target and the flags, and what stands in them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runner.batch import F64, Bool
from runner.config import ROLES as SCORING_ROLES
from runner.dataset import READ_ERRORS, first_line
from runner.errors import InputError, UsageError, explain
from runner.parts import Part
from runner.stop import Stop

Roles = Mapping[str, tuple[str, ...]]
ROLES: Roles = {"target": ("target", "y"), "mask": ("mask",), "observed": ("observed", "available_mask")}
"""What each role may be called, by `--column` and in the data; the first name that is there is taken."""
ROWS_AT_ONCE = 1 << 17


@dataclass(frozen=True, slots=True)
class ActualColumns:
    """Names of columns.

    Attributes:
        keys: what the forecasts are joined on, in the order of `--on`.
        target: what came true.
        flag: what says which steps count; None where nothing does.
        excludes: the flag's 1 means excluded (`mask`), rather than counts (`observed`).
    """

    keys: tuple[str, ...]
    target: str
    flag: str | None
    excludes: bool

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys([*self.keys, self.target, *([self.flag] if self.flag else [])]))


def check_mapping(columns: Mapping[str, str], on: tuple[str, ...], parts: Iterable[Part]) -> None:
    """Refuse roles that nobody knows; those that only scoring looks at may come from a shared environment.

    Args:
        columns: role -> column name, as the command line has it.
        on: the key columns of the forecasts.
        parts: that are evaluated; the roles that they were made with are known.

    Raises:
        UsageError: some of them are neither in `--on`, nor target, mask or observed, nor roles of scoring.
    """
    targets, scoring = {part.maker.target for part in parts}, {role for part in parts for role in part.columns}
    roles = dict.fromkeys([*(name for names in ROLES.values() for name in names), *sorted(targets), *on])
    if unknown := [role for role in columns if role not in {*roles, *SCORING_ROLES, *scoring}]:
        raise UsageError(explain("--column names what is no role", got=", ".join(unknown), expected=", ".join(roles)))


def match_actuals(
    schema: pa.Schema, path: str, on: tuple[str, ...], columns: Mapping[str, str], part: Part, roles: Roles = ROLES
) -> ActualColumns:
    """Find the roles among the columns of a file of actuals.

    Args:
        schema: the file's own.
        path: the file's, for messages.
        on: the key columns of the forecasts.
        columns: role -> column name, as the command line has it.
        part: one of the forecasts; what it was made with stands where the command line says nothing and the file has
            such a column.
        roles: what the target and the flags may be called.

    Raises:
        InputError: a column is missing, stands there twice, or both mask and observed are there.
    """

    def find(role: str) -> str | None:
        names = roles.get(role, (role,))
        told = [columns[name] for name in names if name in columns]
        usual = [*(part.columns[name] for name in names if name in part.columns), *names]
        return next((name for name in (*told, *usual) if name in told or name in schema.names), None)

    keys = tuple(find(key) or key for key in on)
    target = find("target") or " or ".join(dict.fromkeys(roles["target"]))
    flags = {role: name for role in ("mask", "observed") if (name := find(role)) is not None}
    wanted = [*keys, target, *flags.values()]
    problems = [f"column '{name}' is missing" for name in wanted if name not in schema.names]
    problems += [
        f"column '{name}' stands there twice" for name in dict.fromkeys(wanted) if schema.names.count(name) > 1
    ]
    problems += ["both mask and observed are there; one of them can count"] if len(flags) > 1 else []
    if problems:
        got, remedy = ", ".join(schema.names), "name the columns with --column ROLE=NAME"
        raise InputError(explain(f"{path}: {'; '.join(problems)}", got=f"columns {got}", remedy=remedy))
    role, flag = next(iter(flags.items()), ("observed", None))
    return ActualColumns(keys, target, flag, role == "mask")


def excluded_by(flag: pa.Array, path: str, *, excludes: bool) -> Bool:
    """Return which cells a flag excludes [N]; a null excludes.

    Raises:
        InputError: a flag is neither 0 nor 1.
    """
    kind = flag.type
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise InputError(explain(f"{path}: the flags are no flags", got=kind, expected="0 and 1"))
    values = flag.cast(pa.float64()) if not pa.types.is_boolean(flag.type) else flag.cast(pa.int8()).cast(pa.float64())
    numbers = np.asarray(pc.fill_null(values, 1.0 if excludes else 0.0).to_numpy(zero_copy_only=False))
    wrong = ~np.isin(numbers, (0.0, 1.0))
    if wrong.any():
        what, got = f"{path}: a flag is neither 0 nor 1", f"{numbers[wrong][0]:g} and {int(wrong.sum()) - 1} more"
        raise InputError(explain(what, got=got, expected="0 or 1 in every row"))
    return np.asarray(numbers == (1.0 if excludes else 0.0))


def measured(column: pa.Array, path: str, name: str) -> F64:
    """Return a target column in float64, NaN where it is null [N].

    Raises:
        InputError: it holds no numbers, or infinite ones.
    """
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise InputError(explain(f"{path}: column '{name}' is no target", got=column.type, expected="numbers"))
    values = np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False))
    if np.isinf(values).any():
        what = f"{path}: {int(np.isinf(values).sum())} values of '{name}' are infinite"
        raise InputError(explain(what, remedy="write null where nothing was measured"))
    return values


def batches_of(
    file: pq.ParquetFile, columns: ActualColumns, path: str, stop: Stop, rows: int = ROWS_AT_ONCE
) -> Iterator[pa.RecordBatch]:
    """Yield the columns that are needed, a bounded number of rows at a time.

    Raises:
        InputError: the file is damaged.
    """
    try:
        for batch in file.iter_batches(rows, columns=columns.names, use_threads=False):
            stop.check()
            yield batch
    except READ_ERRORS as error:
        raise InputError(explain(f"{path} is damaged", got=first_line(error), remedy="restore the file")) from error
