"""The bundle's manifest: what the graphs are called, what they take, and what export certified."""

import json
import reprlib
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from runner.digests import digest
from runner.errors import BundleError, explain, listing
from runner.features import MOST_NAMES, Calendar, Features, Static, Strict, Target
from runner.precision import Precision

FORMAT_VERSION = 4
READABLE_VERSIONS = (1, 2, 3, 4)
SEVERAL_TARGETS_SINCE = 3
SERIES_SINCE = 4
"""What belongs to series: the time grid, calendar features and static features."""
MANIFEST_FILE = "manifest.json"
Sha256 = Field(pattern=r"^[0-9a-f]{64}$")
FileName = Field(pattern=r"^(int8/)?[A-Za-z0-9][A-Za-z0-9._-]*$")


GRAPH_LIMIT, FILE_LIMIT, BUNDLE_LIMIT = 1 << 29, 1 << 26, 1 << 30
"""Bytes of a graph, of any other file, and of all files together. Three layers of 1,024 units are a graph of 200 MB."""
LONGEST = 1 << 20
"""Steps of a context or a horizon, and the width of a state."""
MOST_TEXT = 64
"""Letters of the name of a time grid."""
MOST_VALUES, MOST_TOLD = 20_000, 50
"""All that stands in a manifest, and the problems that a message names: a megabyte could hold a million of them."""
LARGEST_WINDOW = 1 << 22
"""Numbers in the past, or in the known future, of one window."""
Size = Annotated[int, Field(ge=1, le=LONGEST)]


class BundleFile(Strict):
    """A file of the bundle, pinned by its size and content."""

    file: str = FileName
    bytes: int = Field(ge=0, le=FILE_LIMIT)
    sha256: str = Sha256


class Graph(BundleFile):
    """An ONNX graph; `tensors` maps a role of the design (`past`, `previous`, ...) to the tensor's name."""

    bytes: int = Field(ge=0, le=GRAPH_LIMIT)
    tensors: dict[str, str]


class Start(Strict):
    """The decoder's first input, for the record: the encoder graph emits it as `previous_0`.

    `value` is one number for all targets, or one for each.
    """

    kind: Literal["constant", "last"]
    value: float | Annotated[tuple[float, ...], Field(min_length=2, max_length=MOST_NAMES)] | None = None


class State(Strict):
    """A recurrent tensor [B, width]: made by the encoder, taken and returned by each step."""

    encoder_output: str
    step_input: str
    step_output: str
    width: Size


MOST_AXES = 7
"""After the batch."""


class Memory(Strict):
    """A tensor that the encoder makes once and every step reads; `shape` leaves out the batch axis."""

    encoder_output: str
    step_input: str
    shape: tuple[Size, ...] = Field(max_length=MOST_AXES)


class Mask(Strict):
    """The polarity of the `mask` column on disk."""

    excluded: int = Field(default=1, ge=1, le=1)


class Loss(Strict):
    """The two means of the squared error, in squared target units; None where nothing was observed."""

    masked_mse: float | None
    observed_mse: float | None


class Certified(Strict):
    """What the runner's own loop scored on the validation windows when export let the bundle out."""

    windows: int = Field(ge=1, lt=1 << 63)
    teacher_forced: Loss
    free_running: Loss


class Form(Strict):
    """The forecaster in one precision: its graphs, and what was certified of them. Tensor names never differ.

    `fused` does the whole horizon in one graph; None where the loop has to go around `decoder_step`.
    """

    encoder: Graph
    decoder_step: Graph
    fused: Graph | None
    golden: BundleFile
    certificate: BundleFile
    certified: Certified

    def graphs(self) -> dict[str, Graph]:
        """Return the graphs that are there, by their manifest key."""
        found = {"encoder": self.encoder, "decoder_step": self.decoder_step, "fused": self.fused}
        return {name: graph for name, graph in found.items() if graph}


class Tolerances(Strict):
    """The largest differences allowed, in units of the target's deviation."""

    parity: float = Field(gt=0)
    golden: float = Field(gt=0)


class Manifest(Strict):
    """Everything that the runner knows about a model. See docs/bundle-format.md for the normative text."""

    format_version: int = Field(ge=READABLE_VERSIONS[0], le=READABLE_VERSIONS[-1])
    name: str
    created_at: str
    bundle_id: str = Sha256
    export_id: str = Sha256
    context_length: Size
    horizon: Size
    season_length: int | None = Field(default=None, ge=1, lt=1 << 31)
    features: Features
    past_observed: bool
    static: Static | None = None
    freq: str | None = Field(default=None, min_length=1, max_length=MOST_TEXT)
    calendar: Calendar | None = None
    target: Target
    others: tuple[Target, ...] = Field(default=(), max_length=MOST_NAMES - 1)
    start: Start
    scaling: Literal["none", "standard", "window"]
    encoder: Graph
    decoder_step: Graph
    fused: Graph | None = None
    precisions: dict[Literal["int8"], Form] = Field(default_factory=dict)
    states: tuple[State, ...] = Field(min_length=1, max_length=MOST_NAMES)
    memory: tuple[Memory, ...] = Field(max_length=MOST_NAMES)
    mask: Mask
    excluded_share: float = Field(ge=0, le=1)
    certified: Certified
    tolerances: Tolerances
    golden: BundleFile
    certificate: BundleFile
    control_flow: tuple[str, ...] = Field(default=(), max_length=0)
    opset: int = Field(ge=1, le=LONGEST)
    producers: dict[str, str] = Field(max_length=MOST_NAMES)

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Manifest":
        for target in self.targets:
            if target.feature >= self.past_width:
                raise ValueError(f"target.feature is {target.feature}, but there are {self.past_width} features")
        windows = {"past": (self.context_length, self.past_width), "future_known": (self.horizon, self.future_width)}
        for what, (steps, width) in windows.items():
            if steps * width > LARGEST_WINDOW:
                raise ValueError(f"{what} has {steps} x {width} numbers a window, expected at most {LARGEST_WINDOW}")
        if (size := sum(file.bytes for file in self.files())) > BUNDLE_LIMIT:
            raise ValueError(f"the files have {size} bytes together, expected at most {BUNDLE_LIMIT}")
        return self

    @model_validator(mode="after")
    def _targets_fit(self) -> "Manifest":
        if self.format_version < SEVERAL_TARGETS_SINCE and (self.others or isinstance(self.start.value, tuple)):
            raise ValueError(f"others belong to format version {SEVERAL_TARGETS_SINCE}")
        names = [target.name for target in self.targets]
        if len(set(names)) != len(names):
            raise ValueError(f"targets have the same name: {', '.join(names)}")
        if isinstance(self.start.value, tuple) and len(self.start.value) != self.target_width:
            raise ValueError(f"start.value has {len(self.start.value)} numbers for {self.target_width} targets")
        if (cells := self.cells) > LARGEST_WINDOW:
            raise ValueError(f"prediction has {cells} numbers a window, expected at most {LARGEST_WINDOW}")
        return self

    @model_validator(mode="after")
    def _series_fit(self) -> "Manifest":
        if self.format_version < SERIES_SINCE and (self.static or self.freq or self.calendar):
            raise ValueError(f"static, freq and calendar belong to format version {SERIES_SINCE}")
        if self.static and not self.static.names:
            raise ValueError("static names no feature")
        return self

    @model_validator(mode="after")
    def _names_fit(self) -> "Manifest":
        if self.format_version == 1 and (self.fused or self.precisions):
            raise ValueError("fused and precisions belong to format version 2")
        for what, names in self._named().items():
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{what} have the same name: {', '.join(twice)}")
        for precision in self.held():
            for name, graph in self.form(precision).graphs().items():
                expected = self._tensors(name)
                if graph.tensors != expected:
                    raise ValueError(f"{precision} {name} names tensors {graph.tensors}, expected {expected}")
        return self

    def _named(self) -> dict[str, list[str]]:
        """Return the tensors that the two graphs take and return."""
        encoder, step = self.encoder.tensors, dict(self.decoder_step.tensors)
        prediction = [step.pop("prediction")] if "prediction" in step else []
        pairs: tuple[State | Memory, ...] = (*self.states, *self.memory)
        made, taken = [pair.encoder_output for pair in pairs], [pair.step_input for pair in pairs]
        return {
            "tensors of the encoder": [*encoder.values(), *made],
            "inputs of the step": [*step.values(), *taken],
            "outputs of the step": [*prediction, *(state.step_output for state in self.states)],
        }

    def _tensors(self, graph: str) -> dict[str, str]:
        """Return what a graph's tensors must be called, by role: the two float32 graphs say it, all others follow."""
        if graph == "fused":
            return self.fused_tensors()
        given = self.encoder.tensors if graph == "encoder" else self.decoder_step.tensors
        roles = ["past", *(["past_observed"] if self.past_observed else []), *(["static"] if self.static else [])]
        roles.append("previous_0")
        if graph == "decoder_step":
            roles = ["previous", *(["future_known"] if self.features.future_known else []), "prediction"]
        return {role: given.get(role, "(missing)") for role in roles}

    def fused_tensors(self) -> dict[str, str]:
        """Return the names of a fused graph's tensors by role: those of the two graphs, and `teacher`."""
        return self.fused_names(self.encoder.tensors, self.decoder_step.tensors)

    @staticmethod
    def fused_names(encoder: dict[str, str], step: dict[str, str]) -> dict[str, str]:
        """Return what `fused_tensors` does, of the tensors of the two graphs."""
        known = {**encoder, **step, "teacher": "teacher"}
        return {role: name for role, name in known.items() if role not in {"previous_0", "previous"}}

    def held(self) -> tuple[Precision, ...]:
        """Return the precisions that the bundle holds."""
        return ("fp32", *self.precisions)

    def form(self, precision: Precision) -> Form:
        """Return what the bundle holds for a precision.

        Raises:
            BundleError: it does not hold that one.
        """
        if precision == "fp32":
            return Form(
                encoder=self.encoder,
                decoder_step=self.decoder_step,
                fused=self.fused,
                golden=self.golden,
                certificate=self.certificate,
                certified=self.certified,
            )
        if precision not in self.precisions:
            remedy = "freerun-export quantize BUNDLE --valid VALID adds it"
            raise BundleError(
                explain(f"the bundle has no {precision} graphs", got=", ".join(self.held()), remedy=remedy)
            )
        return self.precisions[precision]

    @property
    def targets(self) -> tuple[Target, ...]:
        """Return all targets, in the order of the last axis of `previous` and `prediction` [B, 1, M]."""
        return (self.target, *self.others)

    @property
    def target_width(self) -> int:
        """Return M, the number of targets."""
        return 1 + len(self.others)

    @property
    def cells(self) -> int:
        """Return H * M, the numbers of a window's forecast: step by step, in each step target by target."""
        return self.horizon * self.target_width

    @property
    def target_features(self) -> tuple[int, ...]:
        """Return the index of each target among the past features [M]."""
        return tuple(target.feature for target in self.targets)

    @property
    def scales(self) -> tuple[float, ...]:
        """Return each target's deviation in raw units [M]."""
        return tuple(target.scale for target in self.targets)

    @property
    def static_width(self) -> int:
        """Return S, the number of static features; 0 where there are none."""
        return len(self.static.names) if self.static else 0

    @property
    def past_width(self) -> int:
        return len(self.features.past)

    @property
    def future_width(self) -> int:
        return len(self.features.future_known)

    def files(self) -> tuple[BundleFile, ...]:
        """Return every file that the bundle must hold beside the manifest."""
        forms = [self.form(precision) for precision in self.held()]
        return tuple(file for form in forms for file in (*form.graphs().values(), form.golden, form.certificate))


def bundle_id_of(manifest: dict[str, Any]) -> str:
    """Return the sha256 of the manifest without its own `bundle_id`: it pins all that the manifest lists."""
    return digest({key: value for key, value in manifest.items() if key != "bundle_id"})


def parse_manifest(text: bytes) -> Manifest:
    """Read a manifest strictly.

    Raises:
        BundleError: not JSON, an unknown format version, any key unknown, missing or of the wrong type (all are
            listed), or a `bundle_id` that is not the content's.
    """
    raw = _parse_json(text)
    version = raw.get("format_version")
    if version not in READABLE_VERSIONS:
        raise BundleError(
            explain(
                "the bundle's format version is not known to this freerun",
                got=version,
                expected=" or ".join(map(str, READABLE_VERSIONS)),
                remedy="score it with the freerun that wrote it, or export it again",
            )
        )
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        told = listing(problems(error)[:MOST_TOLD])
        raise BundleError(f"the manifest does not fit the bundle format:{told}") from error
    if bundle_id_of(raw) != manifest.bundle_id:
        raise BundleError(
            explain(
                "the manifest was altered", got=bundle_id_of(raw), expected=manifest.bundle_id, remedy="export again"
            )
        )
    return manifest


def problems(error: ValidationError) -> list[str]:
    """Return one line for each thing that pydantic found: where, what is expected, and what stood there."""
    lines = []
    for item in error.errors(include_url=False):
        whole = item["type"] in {"missing", "value_error"}  # there the input is all that stands around it
        found = "" if whole else f", got {reprlib.repr(item['input'])}"
        lines.append(f"{'.'.join(map(str, item['loc'])) or 'all'}: {item['msg']}{found}")
    return lines


def _parse_json(text: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(explain("the manifest is not JSON", got=error)) from error
    if not isinstance(raw, dict):
        raise BundleError(explain("the manifest is not a JSON object", got=type(raw).__name__, expected="an object"))
    if (found := _values_in(raw)) > MOST_VALUES:
        raise BundleError(explain("the manifest holds too many values", got=found, expected=f"at most {MOST_VALUES}"))
    return raw


def _values_in(raw: Any) -> int:
    inner = raw.values() if isinstance(raw, dict) else raw if isinstance(raw, list) else ()
    return 1 + sum(map(_values_in, inner))
