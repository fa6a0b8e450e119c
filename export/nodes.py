"""Write ONNX nodes one after the other, with names that never collide."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper


@dataclass(slots=True)
class Nodes:
    """Nodes and constants in the making.

    Attributes:
        prefix: begins every new name; no name of the graphs that are put together may begin with it.
        nodes: in the order written, which is the order that they run in.
        constants: tensors by name.
        known: their names by content, so that equal ones are kept once.
        shared: the output of each node that need not be written again.
    """

    prefix: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    known: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)
    shared: dict[tuple[str, ...], str] = field(default_factory=dict)
    made: int = 0

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; return the output's name."""
        return self.split(kind, 1, *inputs, **attributes)[0]

    def once(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node, or return what the same one has made before."""
        key = kind, *inputs, *map(str, attributes.items())
        if key not in self.shared:
            self.shared[key] = self.op(kind, *inputs, **attributes)
        return self.shared[key]

    def split(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Append a node with several outputs; return their names."""
        outputs = [self._fresh() for _ in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs

    def rename(self, source: str, target: str) -> None:
        """Give a tensor the name that the graph's signature wants."""
        self.nodes.append(helper.make_node("Identity", [source], [target]))

    def constant(self, values: npt.ArrayLike, dtype: npt.DTypeLike = np.int64) -> str:
        """Return the name of a constant with these values."""
        array = np.ascontiguousarray(np.asarray(values, dtype))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.known:
            self.known[key] = self._fresh()
            self.constants[self.known[key]] = numpy_helper.from_array(array, self.known[key])
        return self.known[key]

    def _fresh(self) -> str:
        self.made += 1
        return f"{self.prefix}{self.made}"
