"""A hive partition as the place that a run is limited to: `--only date=2026-11-23 --only region=eu`."""

import os
from collections import Counter
from pathlib import PurePosixPath

from runner.errors import UsageError, explain

WHOLE = PurePosixPath()
"""All of a dataset or of an output, where the folder of a partition is asked for."""
LONGEST_NAME = 255
"""Bytes of a folder's name, on the file systems that there are."""


def partition_of(pairs: tuple[str, ...]) -> PurePosixPath:
    """Return the folder, relative to a dataset, that KEY=VALUE pairs name in their order; without pairs the whole.

    A pair is a folder's name as it stands on disk: nothing is decoded, nothing is compared as a number or a date.

    Raises:
        UsageError: pairs that name no folder of data, or a key that stands there twice; all are listed.
    """
    twice = [f"{key}: given {count} times" for key, count in Counter(map(_key, pairs)).items() if count > 1]
    wrong = [f"{pair!r}: no KEY=VALUE" for pair in pairs if not _is_pair(pair)] or twice
    if wrong:
        expected = (
            "KEY=VALUE, the name of a hive folder: no slash in it, and neither of the two empty or begun by . or _"
        )
        remedy = "give one pair for each level of folders, outermost first, and each partition a run of its own"
        raise UsageError(explain("--only names no partition", got="; ".join(wrong), expected=expected, remedy=remedy))
    return PurePosixPath(*pairs)


def is_partition(folder: PurePosixPath) -> bool:
    """Say whether a run can be limited to a folder: one level or more, each of them KEY=VALUE."""
    return bool(folder.parts) and all(map(_is_pair, folder.parts))


def _key(pair: str) -> str:
    return pair.partition("=")[0]


def _is_pair(text: str) -> bool:
    key, _, value = text.partition("=")
    plain = not {"/", "\0"} & set(text) and len(os.fsencode(text)) <= LONGEST_NAME
    return plain and all(half and half[0] not in "._" for half in (key, value))
