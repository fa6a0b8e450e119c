"""An onnxruntime that has, or seems to have, a CUDA device: the real one, with the fault that FAKE_CUDA names.

To be put first on PYTHONPATH. What stands in for the device is the CPU, so that the whole loop runs.
"""

import ctypes
import importlib
import itertools
import os
import sys
from pathlib import Path
from types import SimpleNamespace

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
FAULT, _, NUMBER = os.environ.get("FAKE_CUDA", "none").partition(":")


def _real():
    """Import the package that this one hides."""
    here = str(Path(__file__).parent.parent)
    sys.path[:] = [place for place in sys.path if place != here]
    del sys.modules["onnxruntime"]
    return importlib.import_module("onnxruntime")


def _noise(where):
    """Print as a C library does, and as a Python library does."""
    if FAULT == "noisy":
        libc = ctypes.CDLL(None)
        libc.printf(b"noise from C, %s\n", where.encode())
        libc.fflush(None)
        os.write(1, b"noise from a descriptor\n")
        print("noise from Python,", where)


def _preload(*_args, **_settings):
    if FAULT == "preload":
        raise OSError("libcudnn.so.9: cannot open shared object file: No such file or directory")


def _placed(kind, place):
    node = SimpleNamespace(op_type=kind, name=kind.lower())
    return SimpleNamespace(ep_name=place, get_nodes=lambda: [node])


ort = _real()


class Options(ort.SessionOptions):
    """Session options that know nothing of falling back, for here the CPU is the device."""

    def add_session_config_entry(self, key, value):
        if key != "session.disable_cpu_ep_fallback":
            super().add_session_config_entry(key, value)


class Session(ort.InferenceSession):
    """A session that says it is on the device."""

    calls = itertools.count(1)

    def __init__(self, graph, options, providers):
        _noise("a session")
        if FAULT == "busy" and providers != [CPU]:
            raise RuntimeError("CUDA failure 46: all CUDA-capable devices are busy or unavailable")
        super().__init__(graph, options, providers=[CPU])
        self.pretends = providers != [CPU] and FAULT != "silent"

    def get_providers(self):
        return [CUDA] if self.pretends else super().get_providers()

    def get_provider_graph_assignment_info(self):
        astray = CPU if FAULT == "astray" else CUDA
        return [] if FAULT == "unrecorded" else [_placed("LSTM", CUDA), _placed("Squeeze", astray)]

    def io_binding(self):
        return Binding(super().io_binding())

    def run_with_iobinding(self, binding, options=None):
        if FAULT == "lost" and next(self.calls) > int(NUMBER):
            raise RuntimeError("CUDA failure 719: unspecified launch failure")
        super().run_with_iobinding(binding.real, options)


class Binding:
    """An I/O binding whose device is the CPU."""

    def __init__(self, real):
        self.real = real

    def bind_input(self, name, _kind, _index, *tensor):
        self.real.bind_input(name, "cpu", 0, *tensor)

    def bind_output(self, name, _kind, _index, *tensor):
        self.real.bind_output(name, "cpu", 0, *tensor)


class Value:
    """Device memory that is the machine's own."""

    @staticmethod
    def ortvalue_from_shape_and_type(shape, kind, _device, _index):
        return REAL_VALUE.ortvalue_from_shape_and_type(shape, kind, "cpu", 0)


REAL_VALUE = ort.OrtValue
_noise("its import")
ort.get_available_providers = lambda: [CUDA, CPU]
ort.preload_dlls = _preload
ort.SessionOptions, ort.InferenceSession, ort.OrtValue = Options, Session, Value
if FAULT == "old":  # onnxruntime before 1.24 keeps no such record
    Session.get_provider_graph_assignment_info = property(lambda session: session.no_such_attribute)
