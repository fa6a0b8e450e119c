"""Demo data in miniature, and models on it: what the tests of the exporter start from."""

from pathlib import Path

import pytest

pytest.importorskip("tensorflow", reason="the exporter needs the `export` extra")

from export.config import TrainConfig
from export.demo_data import write_demo
from export.model import build
from export.pipeline import start_tensorflow
from export.windows import measure, open_windows


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with train/ (300 windows) and valid/ (100 windows)."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, 300, 100, seed=0)
    return folder


@pytest.fixture(scope="session")
def train_windows(demo):
    return open_windows(str(demo / "train"))


@pytest.fixture(scope="session")
def valid_windows(demo):
    return open_windows(str(demo / "valid"))


@pytest.fixture(scope="session")
def statistics(train_windows):
    return measure(train_windows)


@pytest.fixture(scope="session")
def build_models(train_windows, statistics):
    """Return what builds freshly drawn models for some settings."""

    def make(**settings):
        config = TrainConfig(**{"units": 4, "epochs": 2, "batch_size": 64, **settings})
        start_tensorflow(config.seed)
        return config, build(config, train_windows.sizes, statistics, 0, flagged=True)

    return make
