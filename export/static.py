"""Which static features a training has: the numbers that the data brings, and the words of the categories asked for."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from export.config import TrainConfig
from export.windows import WindowFiles, first_rows, lengths_of
from runner.batch import WindowBatch
from runner.bundle import MANIFEST_LIMIT
from runner.dataset import open_dataset
from runner.errors import InputError, UsageError, explain
from runner.features import MOST_WORDS, Category, Static
from runner.long.files import opened
from runner.long.series import names_of, whole_series
from runner.parts import Unit
from runner.reader import read_steps
from runner.schema import category_problems, check_schemas, match
from runner.static import RESERVED
from runner.stop import Stop

UNKNOWN_SHARE = 0.05
"""Of the words that a training reads, so many are taken for unknown ones, where a category has a place for these."""
MOST_TEXT = MANIFEST_LIMIT // 2
"""Bytes of all vocabularies in the manifest."""


def with_static(
    train: WindowFiles, valid: WindowFiles, config: TrainConfig, columns: Mapping[str, str]
) -> tuple[WindowFiles, WindowFiles]:
    """Return both datasets with the static features that there are, or as they were where there are none.

    Raises:
        InputError: a column is missing or of another type; all such columns are listed.
        UsageError: names do not fit, or there are too many words.
    """
    numbers = _numbers(train, config, columns)
    if len({*numbers, *config.categories}) < len(numbers) + len(config.categories):
        what, got = "static features have the same name", ", ".join([*numbers, *config.categories])
        raise UsageError(explain(what, got=got, remedy="other static_names, or each category once"))
    if not numbers and not config.categories:
        return train, valid
    static = _static(numbers, vocabularies(train, config.categories), config)
    return _having(train, static, columns), _having(valid, static, columns)


def static_of_series(data: str, config: TrainConfig, columns: Mapping[str, str]) -> Static | None:
    """Return the static features of series: columns of numbers, and of text whose words are those of training data.

    Args:
        data: path or URI of the training data.
        config: names the columns.
        columns: feature -> column name, only where they differ; `unique_id` may be among them.

    Raises:
        InputError: a column is missing or no text (all are listed), or has no word.
        UsageError: there are more words than a bundle holds.
    """
    if not config.categories:
        return _static(tuple(config.static_names), {}, config) if config.static_names else None
    dataset, found = open_dataset(data), {name: set[str]() for name in config.categories}
    named = {name: columns.get(name, name) for name in ("unique_id", *config.categories)}
    offenders = {}
    for path in dataset.paths():
        with dataset.open(path) as file:
            offenders[path] = category_problems(file.schema_arrow, [named[name] for name in config.categories])
            offenders[path] += [] if named["unique_id"] in file.schema_arrow.names else ["there is no unique_id"]
    check_schemas(offenders)
    for path in offenders:
        with opened(dataset, path, list(named.values())) as file:
            pieces = read_steps(file, Unit(path, None, 0, 0, ""), list(named.values()), Stop())
            for rows, starts in whole_series(pieces, named["unique_id"], None):
                for name in config.categories:
                    words = names_of(rows.column(named[name]), starts)
                    found[name] |= set(words.unique().to_pylist()) - {None}
                _refuse_many(found)
    return _static(tuple(config.static_names or ()), _vocabularies(found, data), config)


def _static(numbers: tuple[str, ...], words: Mapping[str, tuple[str, ...]], config: TrainConfig) -> Static:
    unknown = config.unknown_category
    categories = tuple(Category(name=name, values=values, unknown=unknown) for name, values in words.items())
    return Static(numbers=numbers, categories=categories)


def vocabularies(windows: WindowFiles, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the words of each category, sorted: those of the windows that a training learns from.

    Raises:
        InputError: a column is missing or no text, or has no word.
        UsageError: there are more words than a bundle holds.
    """
    offenders = {}
    for path in windows.layouts if names else ():
        with windows.dataset.open(path) as file:
            offenders[path] = category_problems(file.schema_arrow, names)
    check_schemas(offenders)
    found: dict[str, set[str]] = {name: set() for name in names}
    for column, words in _words(windows, names):
        found[column] |= words
        _refuse_many(found)
    return _vocabularies(found, windows.dataset.root)


def _vocabularies(found: Mapping[str, set[str]], place: str) -> dict[str, tuple[str, ...]]:
    """Return words sorted, where there are some, and not too many."""
    if empty := [name for name, words in found.items() if not words]:
        what = f"no window of {place} that can be learned from has a word"
        raise InputError(explain(what, got=", ".join(empty), remedy="leave the category out"))
    if len(json.dumps([sorted(words) for words in found.values()], indent=2)) > MOST_TEXT:
        raise UsageError(explain("the words of the categories are too long", expected=f"{MOST_TEXT} bytes in all"))
    return {name: tuple(sorted(words)) for name, words in found.items()}


def some_unknown(batch: WindowBatch, categories: Sequence[Category], draw: np.random.Generator) -> WindowBatch:
    """Return windows of which a few words are unknown, where their category has a place for these.

    So the place is learned as every other one, and all behind it: what to make of a word that says nothing.
    """
    if batch.static is None:
        return batch
    changed, first = batch.static.copy(), batch.static.shape[1] - len(categories)
    for place, category in enumerate(categories, first):
        lots = draw.random(len(batch)) < UNKNOWN_SHARE
        if category.unknown == "reserved":
            changed[lots, place] = RESERVED
    return replace(batch, static=changed)


def _numbers(windows: WindowFiles, config: TrainConfig, columns: Mapping[str, str]) -> tuple[str, ...]:
    """Return a name for each number of the list column; none where the data has no such column."""
    path, column = next(iter(windows.layouts)), columns.get("static", "static")
    schema, head = first_rows(windows.dataset, path)
    lengths = lengths_of(schema, head, column)
    count = math.prod(lengths) if lengths else 0
    if lengths and not count:
        remedy = "a row near the top that is not null, or a list of fixed length"
        raise InputError(explain(f"cannot tell how many numbers '{column}' of {path} has", remedy=remedy))
    names = config.static_names or [f"s{index}" for index in range(count)]
    if len(names) != count:
        expected = f"{count} names, one for each number in the list column '{column}'"
        raise UsageError(explain("static_names does not fit the data", got=names, expected=expected))
    return tuple(names)


def _having(windows: WindowFiles, static: Static, columns: Mapping[str, str]) -> WindowFiles:
    sizes = replace(windows.sizes, static=static)
    layouts, offenders = {}, {}
    for path in windows.layouts:
        with windows.dataset.open(path) as file:
            layouts[path], offenders[path] = match(file.schema_arrow, path, sizes, columns, teacher=True)
    check_schemas(offenders)
    return replace(windows, sizes=sizes, layouts=layouts)


def _words(windows: WindowFiles, names: Sequence[str]) -> Iterator[tuple[str, set[str]]]:
    """Yield the words of some windows, a column at a time."""
    if not names:
        return
    layouts = {path: replace(layout, categories=tuple(names)) for path, layout in windows.layouts.items()}
    for rows, batch in replace(windows, layouts=layouts).read():
        good = batch.good_rows()
        good = good[batch.has_target[good]]
        for name in names:
            yield name, set(rows.column(name).take(good).unique().to_pylist()) - {None}


def _refuse_many(found: Mapping[str, set[str]]) -> None:
    count = sum(map(len, found.values()))
    if count > MOST_WORDS:
        got = ", ".join(f"{name} {len(words):,}" for name, words in found.items())
        remedy = "leave out a category that tells every window apart, or join rare words under one"
        expected = f"at most {MOST_WORDS:,} in all"
        raise UsageError(explain("the categories have too many words", got=got, expected=expected, remedy=remedy))
