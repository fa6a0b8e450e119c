"""Open a `.keras` file. It is a program: whoever opens one runs what its author wrote."""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.errors import InputError, UsageError, explain, listing

PLAIN_MODULES = (
    "keras",
    "keras.activations",
    "keras.constraints",
    "keras.dtype_policies",
    "keras.initializers",
    "keras.layers",
    "keras.models",
    "keras.regularizers",
    "keras.src.models.functional",
    "keras.src.models.sequential",
)
PLAIN_OPERATIONS = "keras.src.ops."
PLAIN_VALUES = ("__keras_tensor__", "__slice__", "__numpy__", "__tensor__", "__tuple__", "__ellipsis__", "slice")
"""What Keras writes for values that are no objects of a class."""
NOT_PLAIN = (
    "Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer",
    "StringLookup", "IntegerLookup", "TextVectorization",
)  # fmt: skip
"""Keras' own layers that run code of the file's author, or read files that it names."""
CLASS_NAME = re.compile("[A-Z][A-Za-z0-9]*")
"""Functions begin with a small letter: `load_data` is Keras' own too. A dot leads out of the module that is named."""
LARGEST_CONFIG = 1 << 24


def open_model(path: Path, *, trust: bool) -> Any:
    """Open a training model.

    Args:
        path: a `.keras` file.
        trust: the user knows where it comes from. Without, only a file whose every class is one of Keras' own plain
            ones is opened.

    Returns:
        The Keras model, not compiled: losses and optimizers of the file are never looked at.

    Raises:
        InputError: there is no such file, it is no `.keras` file, or Keras cannot open it.
        UsageError: it may run code of its author, and nobody said that it is trusted.
    """
    config = _config(path)
    foreign = [] if trust else sorted(set(_foreign(config)))
    if foreign:
        what = f"{path} may run code of its author when it is opened: a .keras file is a program" + listing(foreign)
        raise UsageError(explain(what, remedy="--trust-model, if you know where it comes from"))
    import keras

    try:
        return keras.saving.load_model(path, compile=False, safe_mode=not trust)
    except Exception as error:
        remedy = "open it in the environment that it was saved in; own classes must be registered with Keras there"
        raise InputError(explain(f"Keras cannot open {path}", got=_first_line(error), remedy=remedy)) from error


def refuse_untrusted(path: Path, *, trust: bool) -> None:
    """Refuse to open a model that nobody said is trusted, whatever is in it.

    Raises:
        UsageError: `trust` is not set.
    """
    if not trust:
        what = f"{path} is not opened: a .keras file is a program, and opening it runs what its author wrote"
        raise UsageError(explain(what, remedy="--trust-model, if you know where it comes from"))


def _config(path: Path) -> dict[str, Any]:
    remedy = "save the training model with model.save('model.keras')"
    if not path.is_file():
        raise InputError(explain(f"there is no model at {path}", expected="a .keras file", remedy=remedy))
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise InputError(explain(f"{path} is no .keras file", got=path.suffix or "no suffix", remedy=remedy))
    try:
        with zipfile.ZipFile(path) as archive, archive.open("config.json") as file:
            text = file.read(LARGEST_CONFIG + 1)
        config = json.loads(text) if len(text) <= LARGEST_CONFIG else None
    except Exception as error:  # damaged, encrypted or packed in an unknown way: each raises another one
        raise InputError(explain(f"{path} is no .keras file", got=_first_line(error), remedy=remedy)) from error
    if len(text) > LARGEST_CONFIG:
        what, expected = f"{path} has an endless config.json", f"at most {LARGEST_CONFIG} bytes"
        raise InputError(explain(what, expected=expected, remedy=remedy))
    if not isinstance(config, dict):
        raise InputError(explain(f"{path} is no .keras file", got="a config.json without a model", remedy=remedy))
    return config


def _foreign(config: dict[str, Any]) -> Iterator[str]:
    """Yield what a model is made of that is not plainly Keras' own."""
    for entry in _objects({key: value for key, value in config.items() if key != "compile_config"}):
        name, module = entry["class_name"], entry.get("module")
        if module is None and name in PLAIN_VALUES:
            continue
        known = module in PLAIN_MODULES or str(module).startswith(PLAIN_OPERATIONS)
        plain = isinstance(name, str) and CLASS_NAME.fullmatch(name) and name not in NOT_PLAIN
        if not known or not plain or entry.get("registered_name") not in (None, name):
            yield f"{name} of {module or 'no module'}"


def _objects(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every description of an object, however deeply it is hidden."""
    left: list[Any] = [config]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                yield value
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
