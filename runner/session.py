"""An ONNX graph that runs on exactly the device asked for; the only module that knows onnxruntime."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.batch import F32
from runner.device import Device
from runner.errors import BundleError, DeviceError, FreerunError, explain
from runner.stop import Stop

CUDA_PROVIDER = "CUDAExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"
BATCH_AXIS = "batch"
"""What the graphs call their first axis."""


@dataclass(frozen=True, slots=True)
class GraphSession:
    """A graph ready to run; calling it is safe from several threads at once."""

    label: str
    outputs: tuple[str, ...]
    session: Any
    run_options: Any
    stop: Stop

    def __call__(self, feeds: Mapping[str, F32]) -> dict[str, F32]:
        """Run the graph once.

        Args:
            feeds: every input by tensor name, float32, at least one row (onnxruntime aborts the process on none).

        Returns:
            Every output by tensor name.

        Raises:
            InterruptedRunError: a signal ended the call.
            FreerunError: onnxruntime failed.
        """
        try:
            return dict(zip(self.outputs, self.session.run(self.outputs, dict(feeds), self.run_options), strict=True))
        except Exception as error:
            self.stop.check()
            raise FreerunError(explain(f"onnxruntime failed while running {self.label}", got=error)) from error


def open_session(
    graph: bytes, label: str, device: Device, *, threads: int, stop: Stop, batch_size: int | None = None
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

    Raises:
        DeviceError: the device was not granted.
        BundleError: onnxruntime cannot load the graph.
    """
    os.environ.pop("ORT_LOAD_CONFIG_FROM_MODEL", None)  # it would let a model set the session's options
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if batch_size is not None:
        options.add_free_dimension_override_by_name(BATCH_AXIS, batch_size)
    if device.kind == "cuda":
        _require_cuda(ort, device)
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(graph, options, providers=[_provider(device)])
    except Exception as error:
        if device.kind == "cuda":
            raise DeviceError(_refusal(device, error)) from error
        raise BundleError(
            explain(f"onnxruntime cannot load {label}", got=error, remedy="export the bundle again")
        ) from error
    granted = session.get_providers()[0]
    if granted != (CUDA_PROVIDER if device.kind == "cuda" else CPU_PROVIDER):
        raise DeviceError(_refusal(device, granted))
    run_options = ort.RunOptions()
    stop.on_request(lambda: setattr(run_options, "terminate", True))
    return GraphSession(label, tuple(output.name for output in session.get_outputs()), session, run_options, stop)


def _provider(device: Device) -> Any:
    if device.kind == "cpu":
        return CPU_PROVIDER
    return (CUDA_PROVIDER, {"device_id": str(device.index), "use_tf32": "0"})  # TF32 would round to 10 bits


def _require_cuda(ort: Any, device: Device) -> None:
    if CUDA_PROVIDER not in ort.get_available_providers():
        raise DeviceError(_refusal(device, f"onnxruntime {ort.__version__} with {ort.get_available_providers()}"))
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


def _refusal(device: Device, got: object) -> str:
    return explain(
        f"the device {device} was not granted",
        got=got,
        expected=CUDA_PROVIDER if device.kind == "cuda" else CPU_PROVIDER,
        remedy="install freerun[gpu] beside a driver and CUDA libraries that it can load, or use --device cpu",
    )
