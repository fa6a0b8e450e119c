"""Features of a series that do not change: numbers, and for each category the place of its word in the vocabulary."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from runner.batch import F32, Bool
from runner.features import Category, Static

RESERVED = 0
"""The index of every word that is not in the vocabulary."""


def category_problem(kind: pa.DataType) -> str | None:
    """Say why a column of this type can never hold a category's words; None where it can."""
    words = kind.value_type if pt.is_dictionary(kind) else kind
    return None if pt.is_string(words) or pt.is_large_string(words) else f"{kind}, expected text (string)"


def category_indices(column: pa.Array, category: Category) -> tuple[F32, Bool]:
    """Look words up in a category's vocabulary.

    Args:
        column: text that `category_problem` found nothing wrong with, as it is or behind a dictionary [N].
        category: its vocabulary, and what becomes of a word that is not in it.

    Returns:
        The index of each word, its place in the vocabulary from 1 on, 0 for a null and any other word [N]; and which
        rows are rejects for that, none where the index 0 is reserved for them [N].
    """
    words = column.dictionary if pt.is_dictionary(column.type) else column
    places = pc.index_in(words, value_set=pa.array(category.values, words.type))
    if pt.is_dictionary(column.type):
        places = places.take(column.indices)
    indices = (places.fill_null(-1).to_numpy(zero_copy_only=False) + 1).astype(np.float32)
    unknown = indices == RESERVED
    return indices, unknown if category.unknown == "reject" else np.zeros_like(unknown)


def joined(numbers: F32 | None, indices: Sequence[F32]) -> F32:
    """Return `static` [B, S] of the numbers [B, n], None where there are none, and each category's indices [B]."""
    parts = [] if numbers is None else [numbers]
    return np.concatenate([*parts, *(column[:, None] for column in indices)], axis=1, dtype=np.float32)


def as_numbers(static: Static | None) -> Static | None:
    """Return static features that stand in a file as a graph takes them: every index is a number like the others."""
    return static and Static(numbers=static.names)
