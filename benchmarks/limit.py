"""The machine's own limit: how many windows a second its float32 matrix product would allow, if nothing else cost."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from rounds import Racer
from task import Task

from runner.device import cpu_count

SIDE = 512
"""Rows and columns of the matrices."""
FLOP = 2 * SIDE**3
SECONDS = 0.5


def limit(task: Task) -> Racer:
    """Measure numpy's product and onnxruntime's; the faster one is the limit."""
    products = {"numpy": numpy_product(), "onnxruntime": onnxruntime_product()}
    rates = {name: FLOP * per_second(product) for name, product in products.items()}
    best = max(rates, key=lambda name: rates[name])

    def run() -> float:
        return max(FLOP * per_second(product) for product in products.values()) / task.shape.flop

    return Racer(run, note=f"{best}, {SIDE} x {SIDE} x {SIDE}, {rates[best] / 1e9:,.0f} GFLOP/s")


def numpy_product() -> Callable[[int], None]:
    """Return what multiplies matrices n times, with numpy's own threads inside each product."""
    left = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32)
    out = np.empty_like(left)

    def multiply(times: int) -> None:
        for _ in range(times):
            np.matmul(left, left, out=out)

    return multiply


def onnxruntime_product() -> Callable[[int], None]:
    """Return what multiplies by a constant matrix n times, one product a thread, as a decoder multiplies by weights."""
    import onnxruntime as ort  # noqa: PLC0415  (in this contestant's process alone)
    from onnx import TensorProto, helper  # noqa: PLC0415, TID251  (makes a graph, as export does)

    values = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in ("left", "product")]
    weight = helper.make_tensor("right", TensorProto.FLOAT, [SIDE, SIDE], values.tobytes(), raw=True)
    nodes = [helper.make_node("MatMul", ["left", "right"], ["product"])]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session: Any = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    pool = ThreadPoolExecutor(cpu_count())

    def multiply(times: int) -> None:
        list(pool.map(lambda _: session.run(None, {"left": values}), range(times)))

    return multiply


def per_second(product: Callable[[int], None]) -> float:
    """Return how many products a second are made."""
    product(8)
    done, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < SECONDS:
        product(16)
        done += 16
    return done / spent
