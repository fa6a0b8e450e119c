"""Demo data in miniature, and models on it: what the tests of the exporter start from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

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
def exact_integers(tiny) -> Callable[[str], None]:
    """Return what skips a test of a cell in int8 where the processor saturates the sums of its products."""
    weights = numpy_helper.from_array(np.full((2, 1), 127, np.int8), "w")
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    kinds = {"x": TensorProto.UINT8, "y": TensorProto.INT32}
    x, y = (helper.make_tensor_value_info(name, kind, [1, None]) for name, kind in kinds.items())
    model = helper.make_model(
        helper.make_graph([node], "sum", [x], [y], [weights]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    found = tiny.run_graph(model.SerializeToString())({"x": np.full((1, 2), 255, np.uint8)})["y"][0, 0]

    def require(cell: str = "int8") -> None:
        if cell == "int8" and found != 2 * 255 * 127:
            pytest.skip(f"without VNNI this processor makes {found} of 2 x 255 x 127: int8 is not exact here")

    return require


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
