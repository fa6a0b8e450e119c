"""Faults are injected into forked processes, and a process in which TensorFlow has threads is none to fork from."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the faults to a process of their own where the tests of `export` were collected beside them."""
    if "tensorflow" in sys.modules:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="TensorFlow is in this process; `make test` runs two"))
