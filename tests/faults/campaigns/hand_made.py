"""The hand-made bundle and windows of tests/conftest.py, for campaigns that run outside pytest."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def _load() -> ModuleType:
    name = "hand_made_conftest"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


TINY = _load().Tiny()
C, F, H, K, _ = TINY.sizes
