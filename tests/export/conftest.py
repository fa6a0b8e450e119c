"""Demo data in miniature, and models on it: what the tests of the exporter start from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

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
def run_exactly(tiny) -> Callable[[bytes], Callable[[Any], dict[str, np.ndarray]]]:
    """Return what runs a graph with exact integers: onnxruntime, unless the processor saturates products."""
    weights = numpy_helper.from_array(np.full((2, 1), 127, np.int8), "w")
    kinds = {"x": TensorProto.UINT8, "y": TensorProto.INT32}
    x, y = (helper.make_tensor_value_info(name, kind, [1, None]) for name, kind in kinds.items())
    nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(helper.make_graph(nodes, "sum", [x], [y], [weights]), opset_imports=[opset], ir_version=8)
    found = tiny.run_graph(model.SerializeToString())({"x": np.full((1, 2), 255, np.uint8)})["y"]
    return tiny.run_graph if found == 2 * 255 * 127 else by_definition


def by_definition(graph: bytes) -> Callable[[Any], dict[str, np.ndarray]]:
    evaluator = ReferenceEvaluator(onnx.load_model_from_string(graph))
    names = evaluator.output_names
    return lambda feeds: dict(zip(names, evaluator.run(names, dict(feeds)), strict=True))


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
