"""Match a file's columns against what a bundle needs, by name, and say everything that does not fit."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.types as pt

from runner.columns import Shape, leaf_type, type_problem
from runner.config import ROLES
from runner.errors import InputError, explain, listing
from runner.features import Category, Static
from runner.manifest import Manifest
from runner.static import category_problem

FLAG_ROLES = frozenset({"past_observed", "mask", "observed"})
INPUT_ONLY_ROLES = frozenset({"past", "past_observed", "future_known", "static"})
"""Roles whose columns are not copied to the output."""
OUTPUT_COLUMNS = ("prediction", "reject_reason", "bundle_id")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Context C, horizon H, past features F, future features K, targets M, static features: they decide every shape."""

    context: int
    horizon: int
    past: int
    future: int
    targets: int = 1
    static: Static | None = None

    @property
    def numbers(self) -> tuple[str, ...]:
        """Return the names of the static features that are numbers: what the column of role `static` holds."""
        return self.static.numbers if self.static else ()

    @property
    def categories(self) -> tuple[Category, ...]:
        """Return the static features that are words, each in the column of its name."""
        return self.static.categories if self.static else ()

    @property
    def static_width(self) -> int:
        """Return S, the number of static features."""
        return len(self.static.names) if self.static else 0

    def shape(self, role: str) -> Shape:
        """Return a role's axes after the batch."""
        if role == "past":
            return (self.context, self.past)
        if role == "past_observed":
            return (self.context,)
        if role == "future_known":
            return (self.horizon, self.future)
        if role == "static":
            return (len(self.numbers),)
        return (self.horizon,) if self.targets == 1 else (self.horizon, self.targets)

    def shapes(self, role: str) -> tuple[Shape, ...]:
        """Return the axes that a role's column may have: flags of the horizon may be for all targets alike."""
        once = role in {"mask", "observed"} and self.targets > 1
        return (self.shape(role), (self.horizon,)) if once else (self.shape(role),)

    def fitting(self, role: str, kind: pa.DataType) -> tuple[list[Shape], str | None]:
        """Return those of these axes that a column's type can hold, and what is wrong where it can hold none."""
        problems = {shape: type_problem(kind, shape, flags=role in FLAG_ROLES) for shape in self.shapes(role)}
        fit = [shape for shape, problem in problems.items() if problem is None]
        return fit, None if fit else problems[self.shape(role)]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the roles of one file are.

    Attributes:
        roles: role -> column name, for the roles that the file has and the bundle uses.
        categories: columns of the static features that are words.
        copied: columns that go to the output unchanged, in the file's order.
        casts: columns whose items become float32 before they reach a graph.
    """

    roles: dict[str, str]
    copied: tuple[str, ...]
    casts: tuple[str, ...]
    categories: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Return every column that has to be read, each once."""
        return list(dict.fromkeys([*self.roles.values(), *self.categories, *self.copied]))


def sizes_of(manifest: Manifest) -> Sizes:
    length, horizon = manifest.context_length, manifest.horizon
    return Sizes(length, horizon, manifest.past_width, manifest.future_width, manifest.target_width, manifest.static)


def expected_shapes(manifest: Manifest) -> str:
    """Say which lengths a bundle needs."""
    sizes = sizes_of(manifest)
    future = f", future_known [{sizes.horizon}, {sizes.future}]" if sizes.future else ""
    static = f", static {list(sizes.shape('static'))}" if sizes.numbers else ""
    return f"past [{sizes.context}, {sizes.past}]{future}{static}, target and mask {list(sizes.shape('target'))}"


def match(
    schema: pa.Schema, path: str, sizes: Sizes, columns: Mapping[str, str], *, teacher: bool
) -> tuple[Layout, list[str]]:
    """Find the roles among a file's columns.

    Args:
        schema: the file's own schema.
        path: the file's path inside the dataset; its hive keys stay in the path and are never written into a file.
        sizes: the shapes that the bundle needs.
        columns: role -> column name, only where they differ.
        teacher: the loop will be teacher-forced, so true values are needed.

    Returns:
        The layout, and one line for each thing wrong with the schema (an empty list for a good one).
    """
    names = {role: columns.get(role, role) for role in ROLES}
    present = {role: name for role, name in names.items() if name in schema.names}
    for role, width in (("future_known", sizes.future), ("static", len(sizes.numbers))):
        if not width:
            present.pop(role, None)
    problems = [*_name_problems(schema, columns, sizes), *_presence_problems(present, names, sizes, teacher=teacher)]
    for role, column in present.items():
        if schema.names.count(column) == 1:
            _, found = sizes.fitting(role, schema.field(column).type)
            problems += [f"column '{column}' ({role}): {found}"] if found else []
    words = tuple(category.name for category in sizes.categories)
    problems += category_problems(schema, words)
    return Layout(present, _copied(schema, path, present), _casts(schema, present, teacher=teacher), words), problems


def category_problems(schema: pa.Schema, names: Sequence[str]) -> list[str]:
    """Return a line for each thing wrong with the columns of these categories."""
    problems = [f"column '{name}' is missing (a category)" for name in names if name not in schema.names]
    found = {name: category_problem(schema.field(name).type) for name in names if schema.names.count(name) == 1}
    return problems + [f"column '{name}' (a category): {problem}" for name, problem in found.items() if problem]


def check_schemas(offenders: dict[str, list[str]]) -> None:
    """Refuse the input if any file's schema does not fit.

    Raises:
        InputError: lists every file and everything that is wrong with it.
    """
    found = [f"{path}: {problem}" for path, problems in offenders.items() for problem in problems]
    if found:
        remedy = "map columns with --column ROLE=NAME, cast integers to float32; docs/data-contract.md has the layouts"
        raise InputError(explain(f"the data does not fit ({len(found)} problems)" + listing(found), remedy=remedy))


def hive_keys(path: str) -> set[str]:
    """Return the partition keys in a path such as `date=2026-11-23/a.parquet`."""
    return {folder.split("=", 1)[0] for folder in PurePosixPath(path).parts[:-1] if "=" in folder}


def _name_problems(schema: pa.Schema, columns: Mapping[str, str], sizes: Sizes) -> list[str]:
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    taken = [name for name in OUTPUT_COLUMNS if name in schema.names]
    absent = [name for name in columns.values() if name not in schema.names]
    needed = ["past", *(["future_known"] if sizes.future else []), *(["static"] if sizes.numbers else [])]
    absent += [role for role in needed if role not in columns and role not in schema.names]
    return [
        *(f"column '{name}' stands there twice" for name in twice),
        *(f"column '{name}' is one that freerun writes; rename it, or score the original input" for name in taken),
        *(f"column '{name}' is missing (columns: {', '.join(schema.names)})" for name in absent),
    ]


def _presence_problems(present: dict[str, str], names: dict[str, str], sizes: Sizes, *, teacher: bool) -> list[str]:
    problems = []
    if "mask" in present and "observed" in present:
        problems.append(
            "both 'mask' and 'observed' are there; give one of them (1 in mask = excluded, 1 in observed = counts)"
        )
    if teacher and "target" not in present:
        problems.append(f"teacher-forced needs column '{names['target']}' {list(sizes.shape('target'))}; it is missing")
    return problems


def _copied(schema: pa.Schema, path: str, present: dict[str, str]) -> tuple[str, ...]:
    dropped = {column for role, column in present.items() if role in INPUT_ONLY_ROLES} | hive_keys(path)
    return tuple(name for name in schema.names if name not in dropped)


def _casts(schema: pa.Schema, present: dict[str, str], *, teacher: bool) -> tuple[str, ...]:
    fed = ["past", "future_known", "static", *(["decoder_input"] if teacher else [])]
    columns = [present[role] for role in fed if role in present]
    once = [name for name in columns if schema.names.count(name) == 1]
    return tuple(name for name in once if not pt.is_float32(leaf_type(schema.field(name).type)))
