"""The decoding loop with its tensors on the device: one upload and one download a batch, nothing copied in between.

Every call of the step graph is bound once to fixed addresses: step h reads its `previous` where step h - 1 put its
prediction, and the states go to and fro between two halves. So the same calls serve every batch, and a CUDA device can
record each of them as one CUDA graph.
"""

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runner.batch import F32, WindowBatch
from runner.decode import teacher_inputs
from runner.device import Device
from runner.errors import FreerunError, InterruptedRunError
from runner.manifest import Manifest
from runner.session import GraphSession, Place, explained, onnxruntime

ALIGNMENT = 64
"""Values from which on a horizon step's slice may begin: 256 bytes, as an allocation of its own would."""
VALUE_BYTES = 4

Call = Callable[[], None]


@dataclass(frozen=True, slots=True)
class DeviceTensor:
    """Float32 tensors of one shape, one behind the other on the device: one, or one for each horizon step.

    Attributes:
        value: onnxruntime's tensor, whose memory it is.
        shape: axes of a single one, as a graph sees it.
        width: values from one to the next.
    """

    value: Any
    shape: tuple[int, ...]
    width: int

    def place(self, step: int = 0) -> Place:
        """Return where the one of a horizon step lies."""
        return Place(self.value.data_ptr() + VALUE_BYTES * self.width * step, self.shape)

    def upload(self, values: F32) -> None:
        """Replace the only one there is."""
        if values.dtype != np.float32:
            raise TypeError(f"float32 lies on the device, not {values.dtype}")  # onnxruntime copies any bytes
        self.value.update_inplace(values)

    def upload_steps(self, values: F32) -> None:
        """Replace those of all steps: values [B, H, ...]."""
        host = np.zeros(self.value.shape(), np.float32)
        host[:, : math.prod(self.shape)] = np.moveaxis(values, 1, 0).reshape(len(host), -1)
        self.value.update_inplace(host)

    def download_steps(self) -> F32:
        """Return a copy of those of all steps, [B, 1, M] each, step by step [B, H * M]."""
        rows, _, width = self.shape
        steps = self.value.numpy()[:, : rows * width].reshape(-1, rows, width)
        found: F32 = np.moveaxis(steps, 0, 1).reshape(rows, -1).copy()
        return found


def allocate(device: Device, shape: tuple[int, ...], steps: int | None = None) -> DeviceTensor:
    """Take memory on the device for one tensor, or for one at each horizon step, aligned as if it were alone."""
    size = math.prod(shape)
    width = size if steps is None else math.ceil(size / ALIGNMENT) * ALIGNMENT
    whole = shape if steps is None else (steps, width)
    value = onnxruntime().OrtValue.ortvalue_from_shape_and_type(whole, np.float32, device.kind, device.index)
    return DeviceTensor(value, shape, width)


@dataclass(frozen=True, slots=True)
class Lane:
    """What one thread decodes with, and no other: a batch's tensors on the device, and the calls bound to them.

    Attributes:
        inputs: what comes with a batch, by role; `future_known` with one slice a step.
        encoded: the encoder's outputs by tensor name. No step writes there: a tensor may be state and memory at once.
        halves: states by the step's output names, twice: even steps write the first half, odd ones the second.
        forced: the teacher's input, [B, 1, M] at each step.
        predictions: the same of what comes out.
        encode: runs the encoder.
        steps: the calls of the step graph, for each `teacher` that was asked for.
    """

    inputs: Mapping[str, DeviceTensor]
    encoded: Mapping[str, DeviceTensor]
    halves: tuple[Mapping[str, DeviceTensor], Mapping[str, DeviceTensor]]
    forced: DeviceTensor
    predictions: DeviceTensor
    encode: Call
    steps: dict[bool, tuple[Call, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class Gate:
    """Let calls run side by side, but some alone: a CUDA graph in the making is spoilt by other threads' copies."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    left: threading.Condition = field(default_factory=threading.Condition)
    running: int = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Run beside others."""
        with self.turn, self.left:
            self.running += 1
        try:
            yield
        finally:
            with self.left:
                self.running -= 1
                self.left.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let nobody begin, wait until nobody runs, then run."""
        with self.turn:
            with self.left:
                self.left.wait_for(lambda: not self.running)
            yield


@dataclass(frozen=True, slots=True)
class ResidentLoop:
    """A `Loop` over the two graphs; safe from several threads, each of which has a lane of its own.

    onnxruntime keeps captured CUDA graphs for each thread apart, so lanes belong to threads. All replays of a session
    go through one stream, in turn: captured graphs share the memory between their nodes.

    Attributes:
        manifest: names and shapes of the tensors.
        encoder: the encoder graph.
        step: the step graph.
        capturing: the step graph in a session that captures CUDA graphs; None where there is none.
        batch_size: windows in every call.
    """

    manifest: Manifest
    encoder: GraphSession
    step: GraphSession
    capturing: GraphSession | None
    batch_size: int
    lanes: threading.local = field(default_factory=threading.local)
    gate: Gate = field(default_factory=Gate)
    graph_ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __call__(self, batch: WindowBatch, teacher: bool) -> F32:
        """Forecast a batch of `batch_size` windows without rejects.

        Returns:
            Predictions in raw units [B, H * M], those of `decode` over the same graphs on the same device.
        """
        if len(batch) != self.batch_size:
            raise ValueError(f"the loop is bound to {self.batch_size} windows, not {len(batch)}")
        lane: Lane | None = getattr(self.lanes, "lane", None)
        with explained("onnxruntime failed while decoding", self.step.stop, self.step.device):
            if lane is None or teacher not in lane.steps:
                with self.gate.alone():
                    return self._begin(batch, teacher)
            with self.gate.shared():
                self._load(lane, batch, teacher)
                return self._run(lane, lane.steps[teacher])

    def _begin(self, batch: WindowBatch, teacher: bool) -> F32:
        """Decode a thread's first batch, and bind what its later ones will go through."""
        if not hasattr(self.lanes, "lane"):
            self.lanes.lane = self._lane()
        lane: Lane = self.lanes.lane
        self._load(lane, batch, teacher)
        plain = self._bind(lane, self.step, teacher)
        predictions = self._run(lane, plain)
        captured = self._capture(lane, batch, teacher, predictions) if self.capturing else None
        lane.steps[teacher] = captured or plain
        return predictions

    def _capture(self, lane: Lane, batch: WindowBatch, teacher: bool, predictions: F32) -> tuple[Call, ...] | None:
        """Return steps that are replayed as CUDA graphs, if they then give the same predictions to the last bit.

        They are captured from the windows in another order, so a graph that keeps anything of those gives itself away.
        """
        assert self.capturing is not None, "asked for only where there is one"  # noqa: S101
        try:
            steps = self._bind(lane, self.capturing, teacher, ids=self.graph_ids)
            self._load(lane, batch.take(np.roll(np.arange(len(batch)), 1)), teacher)
            self._run(lane, steps)
            self._load(lane, batch, teacher)
            lane.predictions.upload_steps(self._by_step(np.full_like(predictions, np.nan)))
            replayed = self._run(lane, steps)
        except InterruptedRunError:
            raise
        except FreerunError:
            return None
        return steps if np.array_equal(replayed, predictions, equal_nan=True) else None

    def _load(self, lane: Lane, batch: WindowBatch, teacher: bool) -> None:
        """Upload a batch and encode it."""
        for role, tensor in lane.inputs.items():
            values = getattr(batch, role)
            if values is None:
                raise ValueError(f"the graphs take {role}, and the batch has none")
            (tensor.upload_steps if role == "future_known" else tensor.upload)(values)
        lane.encode()
        if teacher:
            previous_0 = lane.encoded[self.manifest.encoder.tensors["previous_0"]].value.numpy()
            lane.forced.upload_steps(self._by_step(teacher_inputs(previous_0, batch)))

    def _by_step(self, cells: F32) -> F32:
        """Return [B, H, M] of values [B, H * M]."""
        return cells.reshape(len(cells), -1, self.manifest.target_width)

    def _run(self, lane: Lane, steps: tuple[Call, ...]) -> F32:
        for step in steps:
            self.step.stop.check()  # a replay does not look at the run options
            step()
        return lane.predictions.download_steps()

    def _lane(self) -> Lane:
        manifest, device, size = self.manifest, self.encoder.device, self.batch_size
        length, names = manifest.context_length, manifest.encoder.tensors
        inputs = {"past": allocate(device, (size, length, manifest.past_width))}
        if manifest.past_observed:
            inputs["past_observed"] = allocate(device, (size, length))
        if manifest.static_width:
            inputs["static"] = allocate(device, (size, manifest.static_width))
        feeds = {names[role]: tensor.place() for role, tensor in inputs.items()}
        if manifest.future_width:
            inputs["future_known"] = allocate(device, (size, 1, manifest.future_width), manifest.horizon)
        shapes: dict[str, tuple[int, ...]] = {names["previous_0"]: (manifest.target_width,)}
        shapes |= {pair.encoder_output: (pair.width,) for pair in manifest.states}
        shapes |= {pair.encoder_output: pair.shape for pair in manifest.memory}
        encoded = {name: allocate(device, (size, *shape)) for name, shape in shapes.items()}
        first, second = (
            {pair.step_output: allocate(device, (size, pair.width)) for pair in manifest.states} for _ in range(2)
        )
        forced, predictions = (allocate(device, (size, 1, manifest.target_width), manifest.horizon) for _ in range(2))
        encode = self.encoder.bind(feeds, {name: tensor.place() for name, tensor in encoded.items()})
        return Lane(inputs, encoded, (first, second), forced, predictions, encode)

    def _bind(
        self, lane: Lane, session: GraphSession, teacher: bool, ids: Iterator[int] | None = None
    ) -> tuple[Call, ...]:
        """Bind every step of the loop."""
        calls = []
        for h in range(self.manifest.horizon):
            written = lane.halves[h % 2]
            outputs = {name: tensor.place() for name, tensor in written.items()}
            outputs[self.manifest.decoder_step.tensors["prediction"]] = lane.predictions.place(h)
            calls.append(session.bind(self._reads(lane, h, teacher), outputs, next(ids) if ids else None))
        return tuple(calls)

    def _reads(self, lane: Lane, h: int, teacher: bool) -> dict[str, Place]:
        """Return where a step finds its inputs, by tensor name."""
        manifest, names = self.manifest, self.manifest.decoder_step.tensors
        reads = {pair.step_input: lane.encoded[pair.encoder_output].place() for pair in manifest.memory}
        for pair in manifest.states:
            state = lane.halves[(h - 1) % 2][pair.step_output] if h else lane.encoded[pair.encoder_output]
            reads[pair.step_input] = state.place()
        if "future_known" in lane.inputs:
            reads[names["future_known"]] = lane.inputs["future_known"].place(h)
        if teacher:
            reads[names["previous"]] = lane.forced.place(h)
        elif h:
            reads[names["previous"]] = lane.predictions.place(h - 1)
        else:
            start = lane.encoded[manifest.encoder.tensors["previous_0"]].place()
            reads[names["previous"]] = Place(start.address, (self.batch_size, 1, manifest.target_width))
        return reads
