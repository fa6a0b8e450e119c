"""Make the graphs of a precision from the certified float32 pair."""

from dataclasses import dataclass

import onnx

from export.fuse import can_fuse, fuse
from export.graphs import GraphPair, serialize
from export.unroll import unroll
from runner.manifest import Manifest
from runner.precision import Precision


@dataclass(frozen=True, slots=True)
class FormGraphs:
    """ONNX files' bytes, stamped with the export id of the float32 pair; `fused` is None where it cannot be made."""

    encoder: bytes
    decoder_step: bytes
    fused: bytes | None

    def by_key(self) -> dict[str, bytes]:
        """Return the graphs that are there, by their manifest key."""
        found = {"encoder": self.encoder, "decoder_step": self.decoder_step, "fused": self.fused}
        return {name: graph for name, graph in found.items() if graph is not None}


def make_form(pair: GraphPair, manifest: Manifest, precision: Precision) -> FormGraphs:
    """Return the graphs of a precision.

    In float32 the pair stays as it was converted, and the fused graph is composed of it with every recurrence written
    out. In int8 the two graphs are written out in int8, and the fused graph is composed of these.
    """
    encoder, step = (onnx.load_model_from_string(graph) for graph in (pair.encoder, pair.decoder_step))
    written = unroll(encoder, precision), unroll(step, precision)
    fused = None
    if can_fuse(encoder, step, manifest.horizon):
        composed = fuse(written[0], written[1], manifest)
        composed.metadata_props.extend(encoder.metadata_props)
        fused = serialize(composed)
    if precision == "fp32":
        return FormGraphs(pair.encoder, pair.decoder_step, fused)
    return FormGraphs(serialize(written[0]), serialize(written[1]), fused)
