"""Files of which a row is a time step: matched before the first row, and opened so that their text takes no memory."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import pyarrow.parquet as pq

from runner.dataset import Dataset
from runner.errors import InputError
from runner.freq import Freq
from runner.long.layout import LongLayout, match_long
from runner.long.recipe import Recipe
from runner.long.text import few_words, refuse_claims
from runner.schema import check_schemas


def match_files(
    dataset: Dataset, paths: Iterable[str], recipe: Recipe, columns: Mapping[str, str], freq: Freq
) -> dict[str, LongLayout]:
    """Find the roles among the columns of every file that will be read, each by itself.

    Raises:
        InputError: some do not fit; everything wrong with any of them is listed.
    """
    layouts, offenders = {}, {}
    for path in paths:
        with dataset.open(path) as file:
            layout, offenders[path] = match_long(file.schema_arrow, path, recipe, columns, freq)
        if layout:
            layouts[path] = layout
    check_schemas(offenders)
    return layouts


@contextmanager
def opened(dataset: Dataset, path: str, words: list[str]) -> Iterator[pq.ParquetFile]:
    """Open a file to read its series.

    Args:
        dataset: where it is.
        path: the file's.
        words: its columns of text.

    Raises:
        InputError: it cannot be read, or its text is too long; and what is raised while it is open, by its name.
    """
    with dataset.open(path) as file:
        few = few_words(file.metadata, words)
    with dataset.open(path, few) as file, naming(path):
        refuse_claims(file.metadata, words)
        yield file


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Let a refusal begin with the file that it is of, as those of reading do."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(path):
            raise
        raise InputError(f"{path}: {error}") from error
