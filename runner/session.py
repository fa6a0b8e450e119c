"""An ONNX graph that runs on exactly the device asked for; all of onnxruntime, but for the tensors of `resident`."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from runner.batch import F32
from runner.device import Device, require_threads
from runner.errors import BundleError, DeviceError, FreerunError, explain, lacking, listing, ran_out
from runner.stop import Stop

CUDA_PROVIDER = "CUDAExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"
BATCH_AXIS = "batch"
"""What the graphs call their first axis."""


def onnxruntime() -> Any:
    """Import onnxruntime, and keep it from doing what nobody asked for: the only way in for the whole runner."""
    os.environ.pop("ORT_LOAD_CONFIG_FROM_MODEL", None)  # it would let a model set the session's options
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # from 1.32 on it keeps a database in the home folder, and calls home
    if "onnxruntime" not in sys.modules:
        require_threads()
    try:
        import onnxruntime as ort
    except ImportError as error:
        if lacking(error):
            raise
        raise DeviceError(
            explain(
                "onnxruntime cannot be imported", got=error, remedy="install freerun[cpu], or freerun[gpu] for CUDA"
            )
        ) from error
    ort.set_default_logger_severity(3)
    return ort


@dataclass(frozen=True, slots=True)
class Place:
    """Where a float32 tensor lies on the device: the address of its first value, and its axes."""

    address: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GraphSession:
    """A graph ready to run; calling it is safe from several threads at once."""

    label: str
    outputs: tuple[str, ...]
    session: Any
    run_options: Any
    stop: Stop
    device: Device

    def __call__(self, feeds: Mapping[str, F32]) -> dict[str, F32]:
        """Run the graph once.

        Args:
            feeds: every input by tensor name, float32, at least one row (onnxruntime aborts the process on none).

        Returns:
            Every output by tensor name.

        Raises:
            InterruptedRunError: a signal ended the call.
            DeviceError: it failed on a CUDA device: lost, or out of memory.
            ResourcesError: the machine's memory ran out.
            FreerunError: onnxruntime failed.
        """
        with explained(f"onnxruntime failed while running {self.label}", self.stop, self.device):
            return dict(zip(self.outputs, self.session.run(self.outputs, dict(feeds), self.run_options), strict=True))

    def bind(
        self, inputs: Mapping[str, Place], outputs: Mapping[str, Place], graph_id: int | None = None
    ) -> Callable[[], None]:
        """Prepare a call whose tensors stay where they are on the device.

        Args:
            inputs: every input by tensor name; the caller keeps what lies there alive.
            outputs: the outputs by tensor name, none of them on top of an input.
            graph_id: under which a capturing session keeps the captured call; from 1 on, and no other call's: what is
                replayed reads and writes the addresses that it was captured with.

        Returns:
            What runs the graph and waits for it; raises as calling the session does.

        Raises:
            FreerunError: a name or a shape is not the graph's.
        """
        failure, kind, index = f"onnxruntime failed while running {self.label}", self.device.kind, self.device.index
        with explained(failure, self.stop, self.device):
            binding = self.session.io_binding()
            for name, place in inputs.items():
                binding.bind_input(name, kind, index, np.float32, place.shape, place.address)
            for name, place in outputs.items():
                binding.bind_output(name, kind, index, np.float32, place.shape, place.address)
        options = self.run_options if graph_id is None else _run_options(self.stop, graph_id)

        def call() -> None:
            with explained(failure, self.stop, self.device):
                self.session.run_with_iobinding(binding, options)

        return call


@contextmanager
def explained(what: str, stop: Stop, device: Device) -> Iterator[None]:
    """Tell in our words, and only once, what onnxruntime raises; a stop is told as one, for it ends calls by failing.

    Raises:
        InterruptedRunError: a signal ended the call.
        DeviceError: it failed on a CUDA device.
        ResourcesError: memory or threads ran out.
        FreerunError: onnxruntime failed.
    """
    try:
        yield
    except FreerunError:
        raise
    except Exception as error:
        stop.check()
        what = f"{what} on {device}"
        if device.kind == "cuda" and not isinstance(error, MemoryError):
            remedy = "see to the device, or give a smaller --batch-size; the same command resumes"
            raise DeviceError(explain(what, got=error, remedy=remedy)) from error
        if lack := lacking(error):
            raise ran_out(lack, f"{what}: {error}") from error
        raise FreerunError(explain(what, got=error)) from error


def open_session(
    graph: bytes,
    label: str,
    device: Device,
    *,
    threads: int,
    stop: Stop,
    batch_size: int | None = None,
    capture: bool = False,
) -> GraphSession:
    """Build a session from the very bytes that were checked.

    Args:
        graph: the ONNX model.
        label: what to call it in messages.
        device: where it must run; there is no falling back.
        threads: processors for one call of the graph.
        stop: ends a running call when a signal arrives.
        batch_size: windows in every call; None where calls differ. With it onnxruntime plans memory once, and works out
            ahead of time what depends on shapes alone.
        capture: have a CUDA device record each bound call as one CUDA graph, and replay it from then on.

    Raises:
        DeviceError: the device was not granted, or not for every node of the graph.
        BundleError: onnxruntime cannot load the graph.
    """
    ort = onnxruntime()
    with _refusing(label, device):
        if device.kind == "cuda":
            _require_cuda(ort, device)
        options = _options(ort, device, threads, batch_size)
        session = ort.InferenceSession(graph, options, providers=[_provider(device, capture=capture)])
        granted = session.get_providers()[0]
        if granted != _provider_name(device):
            raise DeviceError(_refusal(device, granted))
        if device.kind == "cuda":
            check_placement(session.get_provider_graph_assignment_info(), label, device)
        outputs = tuple(output.name for output in session.get_outputs())
    return GraphSession(label, outputs, session, _run_options(stop), stop, device)


@contextmanager
def _refusing(label: str, device: Device) -> Iterator[None]:
    """Tell why a session did not come about: the device was not granted, something ran out, or the graph is bad."""
    try:
        yield
    except FreerunError:
        raise
    except Exception as error:
        if device.kind == "cuda" and not isinstance(error, MemoryError):
            raise DeviceError(_refusal(device, error)) from error
        if lack := lacking(error):
            raise ran_out(lack, f"{label} cannot be loaded: {error}") from error
        raise BundleError(
            explain(f"onnxruntime cannot load {label}", got=error, remedy="export the bundle again")
        ) from error


def _options(ort: Any, device: Device, threads: int, batch_size: int | None) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.load_model_format", "ONNX")  # whatever other format it could be taken for
    if batch_size is not None:
        options.add_free_dimension_override_by_name(BATCH_AXIS, batch_size)
    if device.kind == "cuda":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def open_capturing(
    graph: bytes, label: str, device: Device, *, threads: int, stop: Stop, batch_size: int
) -> GraphSession | None:
    """Build a session that captures CUDA graphs; None where onnxruntime refuses, for the control flow in a graph, say.

    To be tried once `open_session` has shown that the device itself is granted.
    """
    try:
        return open_session(graph, label, device, threads=threads, stop=stop, batch_size=batch_size, capture=True)
    except DeviceError:
        return None


def check_placement(subgraphs: Sequence[Any], label: str, device: Device) -> None:
    """Check that every node of a graph was given to the device.

    Args:
        subgraphs: onnxruntime's record of a session: which execution provider got which nodes.
        label: what to call the graph in messages.
        device: where all of it must run.

    Raises:
        DeviceError: a node is elsewhere (all of them are listed), or there is no record of any.
    """
    provider = _provider_name(device)
    nodes = [(subgraph.ep_name, node) for subgraph in subgraphs for node in subgraph.get_nodes()]
    astray = [f"{node.op_type} {node.name!r} on {name}" for name, node in nodes if name != provider]
    if astray or not nodes:
        got = f"{len(astray)} of {len(nodes)} nodes elsewhere" if nodes else "no record of any node"
        remedy = "use --device cpu, or a model whose operators all have a form for the device"
        what = explain(f"{label} does not run on {device} alone", got=got, expected=provider, remedy=remedy)
        raise DeviceError(what + listing(astray))


def _run_options(stop: Stop, graph_id: int | None = None) -> Any:
    options = onnxruntime().RunOptions()
    if graph_id is not None:
        options.add_run_config_entry("gpu_graph_id", str(graph_id))
    stop.on_request(lambda: setattr(options, "terminate", True))
    return options


def _provider_name(device: Device) -> str:
    return CUDA_PROVIDER if device.kind == "cuda" else CPU_PROVIDER


def _provider(device: Device, *, capture: bool) -> Any:
    if device.kind == "cpu":
        return CPU_PROVIDER
    settings = {"device_id": str(device.index), "use_tf32": "0"}  # TF32 would round to 10 bits
    return (CUDA_PROVIDER, {**settings, "enable_cuda_graph": "1"} if capture else settings)


def _require_cuda(ort: Any, device: Device) -> None:
    if CUDA_PROVIDER not in ort.get_available_providers():
        raise DeviceError(_refusal(device, f"onnxruntime {ort.__version__} with {ort.get_available_providers()}"))
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


def _refusal(device: Device, got: object) -> str:
    return explain(
        f"the device {device} was not granted",
        got=got,
        expected=_provider_name(device),
        remedy="free it, install freerun[gpu] beside a driver and CUDA libraries that it can load, or use --device cpu",
    )
