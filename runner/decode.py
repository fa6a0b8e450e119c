"""The recurrent decoding loop: functions that run graphs, numpy arrays, and nothing else.

State is passed in and returned, never kept. Tensors go by name. Step t's prediction is step t + 1's `previous`, in raw
units; under teacher forcing the true previous value takes its place. `decode` is the loop as the bundle format defines
it; `decode_fused` leaves it to a graph that holds it whole.
"""

from collections.abc import Callable, Mapping

import numpy as np

from runner.batch import F32, F64, Bool, WindowBatch
from runner.manifest import Manifest

FREE_RUNNING = np.float32(np.nan)
START_VALUE = np.float32(np.inf)
"""What stands in the fused graph's `teacher` for a step that takes the last prediction, or the start value."""

RunGraph = Callable[[Mapping[str, F32]], Mapping[str, F32]]
"""A graph: tensors by name in, tensors by name out."""

Loop = Callable[[WindowBatch, bool], F32]
"""What every way to decode is: a batch without rejects and `teacher` in, predictions [B, H * M] out, row by row."""


def decode(encoder: RunGraph, step: RunGraph, manifest: Manifest, batch: WindowBatch, *, teacher: bool) -> F32:
    """Forecast a batch of windows, one horizon step after the other.

    Args:
        encoder: runs the encoder graph.
        step: runs the single-step decoder graph.
        manifest: the names of the tensors, and which of them are handed on.
        batch: windows without rejects, at least one [B, ...].
        teacher: feed the teacher's input instead of the last prediction.

    Returns:
        Predictions in raw units [B, H * M], step by step; row i belongs to window i, whatever else is in the batch.
    """
    encoded = encoder(encoder_feeds(manifest, batch))
    memory = {pair.step_input: encoded[pair.encoder_output] for pair in manifest.memory}
    state = {pair.step_input: encoded[pair.encoder_output] for pair in manifest.states}
    previous = encoded[manifest.encoder.tensors["previous_0"]]
    inputs = teacher_inputs(previous, batch) if teacher else None
    names = manifest.decoder_step.tensors
    width = manifest.target_width
    predictions = np.empty((len(batch), manifest.cells), np.float32)
    for h in range(manifest.horizon):
        feeds = {names["previous"]: previous[:, None], **state, **memory}
        if batch.future_known is not None:
            feeds[names["future_known"]] = np.ascontiguousarray(batch.future_known[:, h : h + 1])
        returned = step(feeds)
        now = slice(h * width, (h + 1) * width)
        predictions[:, now] = returned[names["prediction"]][:, 0]
        state = {pair.step_input: returned[pair.step_output] for pair in manifest.states}
        following = predictions if inputs is None else inputs[:, width:]
        previous = np.ascontiguousarray(following[:, now])
    return predictions


def decode_fused(
    fused: RunGraph, names: Mapping[str, str], horizon: int, batch: WindowBatch, *, teacher: bool, targets: int = 1
) -> F32:
    """Forecast a batch with the graph that holds encoder and loop.

    Args:
        fused: runs that graph; what its `teacher` input means stands in docs/bundle-format.md.
        names: its tensors' names by role.
        horizon: H.
        batch: windows without rejects, at least one [B, ...].
        teacher: feed the teacher's input instead of the last prediction.
        targets: M.

    Returns:
        Predictions in raw units [B, H * M], those of `decode` but for rounding.
    """
    start, cells = np.full((len(batch), targets), START_VALUE, np.float32), (len(batch), horizon * targets)
    forced = teacher_inputs(start, batch) if teacher else np.full(cells, FREE_RUNNING, np.float32)
    feeds = {**context_feeds(names, batch), names["teacher"]: forced}
    if batch.future_known is not None:
        feeds[names["future_known"]] = batch.future_known
    return fused(feeds)[names["prediction"]]


def encoder_feeds(manifest: Manifest, batch: WindowBatch) -> dict[str, F32]:
    """Return the encoder's inputs by tensor name."""
    return context_feeds(manifest.encoder.tensors, batch)


def context_feeds(names: Mapping[str, str], batch: WindowBatch) -> dict[str, F32]:
    """Return what a batch tells of the context, by tensor name; `names` are the tensors by role."""
    return {names[role]: array for role, array in batch.context().items()}


def teacher_inputs(previous_0: F32, batch: WindowBatch) -> F32:
    """Return what a teacher-forced decoder is fed.

    Args:
        previous_0: the start values in raw units, as the encoder graph emits them [B, M].
        batch: `decoder_input` where the data brings its own, else `target` with `observed`.

    Returns:
        The previous target, in raw units [B, H * M]. Where that one does not count, the last before it of the same
        target that does; at the first step, and where none counts yet, the start value. The first step is the start
        value in any case: it belongs to the bundle, and with it teacher-forced and free-running agree at step 1.
    """
    width = previous_0.shape[1]
    if batch.decoder_input is not None:
        return np.concatenate([previous_0, batch.decoder_input[:, width:]], axis=1)
    if batch.target is None or batch.observed is None:
        raise ValueError("teacher forcing needs a target or a decoder_input")
    inputs = np.empty(batch.target.shape, np.float32)
    for index in range(width):
        own = slice(index, None, width)
        start = previous_0[:, index : index + 1]
        inputs[:, own] = _carry_forward(start, batch.target[:, own], batch.observed[:, own])
    return inputs


def _carry_forward(previous_0: F32, target: F64, observed: Bool) -> F32:
    values = np.concatenate([previous_0, target[:, :-1].astype(np.float32)], axis=1)
    steps = np.arange(1, values.shape[1])
    latest = np.zeros(values.shape, np.intp)
    latest[:, 1:] = np.maximum.accumulate(np.where(observed[:, :-1], steps, 0), axis=1)
    return np.take_along_axis(values, latest, axis=1)
