"""The operators that the audit allows are those that export writes, and a few that it is to write next.

Every kind that `benchmarks/parity.py` makes is audited when it is exported; here are so many of them that each layer
count, scaling, start value and kind of data stands beside each other one. Beside them, models of teams.
"""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from export.anatomy import dissect
from export.bundle_writer import draft_manifest, provisional
from export.config import BundleConfig, TrainConfig
from export.forms import make_form
from export.graphs import convert
from export.model import build
from export.pipeline import start_tensorflow
from runner.audit import audit_graph, signature
from runner.features import Category, Static
from runner.manifest import Graph
from runner.operators import OPERATORS
from runner.schema import Sizes
from teams import CONTEXT, FEATURES, HORIZON, MODELS

KINDS = [
    # units, scaling, start, base, future_known, past_observed
    ([4], "none", -1.0, "none", True, True),
    ([4, 3], "standard", -1.0, "none", False, True),
    ([4, 3, 3], "window", -1.0, "none", True, False),
    ([4, 3], "none", "last", "linear", True, False),
    ([4, 3, 3], "standard", "last", "none", False, False),
    ([4], "window", "last", "linear", True, True),
]


STATIC = Static(numbers=("s0",), categories=(Category(name="c", values=("a", "b")),))
"""Of the kinds with a linear base, which does not look at them."""
OTHER = "Dense layers with other activations"
TEAMS = ["bidirectional encoder and attention", "Bahdanau attention", "Dropout and LayerNormalization", OTHER]
TEAMS += ["GRU", "GRU, reset_after=False", "SimpleRNN"]


def built(train_windows, statistics):
    """Yield our own models: a label, the config, sizes, the models and their scaling."""
    for units, scaling, start, base, future, flagged in KINDS:
        config = TrainConfig(units=units, scaling=scaling, start=start, base=base)
        start_tensorflow(config.seed)
        sizes = train_windows.sizes if future else replace(train_windows.sizes, future=0)
        sizes = replace(sizes, static=STATIC if base == "linear" else None)
        measured = replace(statistics, static_location=np.ones(1), static_scale=np.ones(1))
        models = build(config, sizes, measured, 0, flagged=flagged)
        yield f"{units} {scaling} {start} {base}", config, sizes, models, scaling


def taken():
    """Yield models of teams, likewise."""
    for name in TEAMS:
        models = dissect(MODELS[name](), -1.0, 0)
        yield name, BundleConfig(), Sizes(CONTEXT, HORIZON, FEATURES, 0), models, "none"


@pytest.fixture(scope="module")
def graphs(train_windows, statistics):
    """Return the graphs of all these kinds in both precisions, and what each must take and return."""
    made = []
    for label, config, sizes, models, scaling in (*built(train_windows, statistics), *taken()):
        pair = convert(models)
        manifest = provisional(draft_manifest(config, sizes, statistics, 0, models, pair, scaling=scaling))
        entry = {"file": "x", "bytes": 0, "sha256": "0" * 64}
        for precision in ("fp32", "int8"):
            for key, graph in make_form(pair, manifest, precision).by_key().items():
                names = Graph(**entry, tensors=manifest.fused_tensors() if key == "fused" else {})
                made.append((f"{label}: {precision} {key}", graph, signature(manifest, key, names)))
    return made


def test_all_that_export_writes_passes_the_audit(graphs):
    for label, graph, expected in graphs:
        audit_graph(graph, label, expected)


def test_every_operator_that_is_allowed_is_written_or_has_its_reason(graphs):
    seen = {node.op_type for _, graph, _ in graphs for node in onnx.load_model_from_string(graph).graph.node}
    assert {name for name, operator in OPERATORS.items() if operator.expected is None} == seen


def test_every_attribute_that_is_allowed_is_written_or_belongs_to_an_operator_that_is_not_yet(graphs):
    nodes = [node for _, graph, _ in graphs for node in onnx.load_model_from_string(graph).graph.node]
    seen = {(node.op_type, attribute.name) for node in nodes for attribute in node.attribute}
    written = {name: operator for name, operator in OPERATORS.items() if operator.expected is None}
    assert {(name, setting) for name, operator in written.items() for setting in operator.settings} == seen
