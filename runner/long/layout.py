"""Find the columns of a file of which a row is a time step of a series."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as pt

from runner.calendar import calendar_names
from runner.errors import FreerunError
from runner.features import Static
from runner.freq import Freq, Grid, grid_of
from runner.long.recipe import Recipe
from runner.long.text import is_text
from runner.schema import hive_keys

NOTHING = Static()
FLAGS = {"available_mask": 1, "observed": 1, "mask": 0}
"""Columns that say which targets count, and the value that does."""


@dataclass(frozen=True, slots=True)
class LongLayout:
    """Where the roles of one file are.

    Attributes:
        unique_id: column of the series.
        ds: column of the time.
        id_type: type of the series' names; a dictionary's is that of its words.
        grid: the time steps.
        target: column of the target.
        flag: column that says which targets count, and the value that does; None where all that are not null do.
        numbers: feature -> column, of all features that are read, the target among them.
        categories: static category -> column.
        casts: columns that become float32 before they reach a graph.
    """

    unique_id: str
    ds: str
    id_type: pa.DataType
    grid: Grid
    target: str
    flag: tuple[str, int] | None
    numbers: Mapping[str, str]
    categories: Mapping[str, str]
    casts: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        """Return every column that has to be read, each once."""
        flag = [self.flag[0]] if self.flag else []
        return list(dict.fromkeys([self.unique_id, self.ds, *self.numbers.values(), *flag, *self.categories.values()]))

    @property
    def words(self) -> list[str]:
        """Return the columns of text, which are best read as dictionaries."""
        return [*([self.unique_id] if is_text(self.id_type) else []), *self.categories.values()]


def computed(manifest: Recipe) -> tuple[str, ...]:
    """Return the features that no file brings along, because they follow from the time."""
    return calendar_names(manifest.calendar) if manifest.calendar else ()


def match_long(
    schema: pa.Schema, path: str, manifest: Recipe, columns: Mapping[str, str], freq: Freq
) -> tuple[LongLayout | None, list[str]]:
    """Find the roles among a file's columns.

    Args:
        schema: the file's own schema.
        path: the file's path inside the dataset; its hive keys stay in the path.
        manifest: of the bundle, which says what the features are called.
        columns: role or feature -> column name, only where they differ.
        freq: the time grid.

    Returns:
        The layout, and one line for each thing wrong with the schema (none for a good one).
    """
    target = _target_column(schema, manifest, columns)
    skipped = {manifest.target.name, *computed(manifest)}
    given = [*manifest.features.past, *manifest.features.future_known, *(manifest.static or NOTHING).numbers]
    numbers = {name: columns.get(name, name) for name in given if name not in skipped}
    numbers[manifest.target.name] = target
    categories = {entry.name: columns.get(entry.name, entry.name) for entry in (manifest.static or NOTHING).categories}
    flags = {role: columns.get(role, role) for role in FLAGS if columns.get(role, role) in schema.names}
    unique_id, ds = columns.get("unique_id", "unique_id"), columns.get("ds", "ds")
    wanted = [unique_id, ds, *numbers.values(), *categories.values(), *(columns[r] for r in FLAGS if r in columns)]
    problems = _presence_problems(schema, path, dict.fromkeys(wanted))
    problems += _role_problems(columns, {"unique_id", "ds", "y", "target", *FLAGS, *numbers, *categories})
    if len(flags) > 1:
        problems.append(
            f"{' and '.join(flags.values())} are there; give one (1 in mask = excluded, in the others 1 = counts)"
        )
    if problems:
        return None, problems
    kinds = {name: schema.field(name).type for name in [*wanted, *flags.values()]}
    problems = _type_problems(kinds, unique_id, [*numbers.values(), *flags.values()], list(categories.values()))
    try:
        grid = grid_of(freq, kinds[ds])
    except FreerunError as error:
        return None, [*problems, f"column '{ds}' (ds): {error}"]
    casts = tuple(name for name in dict.fromkeys(numbers.values()) if not pt.is_float32(kinds[name]))
    flag = next(((column, FLAGS[role]) for role, column in flags.items()), None)
    layout = LongLayout(unique_id, ds, _plain(kinds[unique_id]), grid, target, flag, numbers, categories, casts)
    return (None, problems) if problems else (layout, [])


def _target_column(schema: pa.Schema, manifest: Recipe, columns: Mapping[str, str]) -> str:
    """Return the target's column: what `--column` says; else `y`; else its own name."""
    name = manifest.target.name
    for role in ("y", "target", name):
        if role in columns:
            return columns[role]
    return "y" if "y" in schema.names or name not in schema.names else name


def _presence_problems(schema: pa.Schema, path: str, wanted: Mapping[str, None]) -> list[str]:
    twice = [name for name in wanted if schema.names.count(name) > 1]
    absent = [name for name in wanted if name not in schema.names]
    in_path = hive_keys(path)
    return [
        *(f"column '{name}' stands there twice" for name in twice),
        *(
            f"column '{name}' is {'a key of the path, no column' if name in in_path else 'missing'}"
            f" (columns: {', '.join(schema.names)})"
            for name in absent
        ),
    ]


def _role_problems(columns: Mapping[str, str], known: set[str]) -> list[str]:
    unknown = sorted(columns.keys() - known)
    return [f"--column {role}: no such role or feature (there are {', '.join(sorted(known))})" for role in unknown]


def _type_problems(kinds: Mapping[str, pa.DataType], unique_id: str, numbers: list[str], words: list[str]) -> list[str]:
    named = _plain(kinds[unique_id])
    problems = []
    if not (is_text(named) or pt.is_integer(named)):
        problems.append(f"column '{unique_id}' (unique_id): {kinds[unique_id]}, expected text or integers")
    for name in dict.fromkeys(numbers):
        kind = kinds[name]
        if not (pt.is_floating(kind) or pt.is_integer(kind) or pt.is_boolean(kind)):
            problems.append(f"column '{name}': {kind}, expected numbers")
    bare = [name for name in words if not is_text(_plain(kinds[name]))]
    return [*problems, *(f"column '{name}' (a category): {kinds[name]}, expected text" for name in bare)]


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pt.is_dictionary(kind) else kind
