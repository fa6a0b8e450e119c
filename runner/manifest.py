"""The bundle's manifest: what the graphs are called, what they take, and what export certified."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from runner.digests import digest
from runner.errors import BundleError, explain, listing

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
Sha256 = Field(pattern=r"^[0-9a-f]{64}$")
FileName = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


class Strict(BaseModel):
    """A frozen value that refuses unknown keys, loose types, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class BundleFile(Strict):
    """A file of the bundle, pinned by its size and content."""

    file: str = FileName
    bytes: int = Field(ge=0)
    sha256: str = Sha256


class Graph(BundleFile):
    """An ONNX graph; `tensors` maps a role of the design (`past`, `previous`, ...) to the tensor's name."""

    tensors: dict[str, str]


class Features(Strict):
    """Feature names in the order of the last axis of `past` [B, C, F] and `future_known` [B, H, K]."""

    past: tuple[str, ...] = Field(min_length=1)
    future_known: tuple[str, ...]


class Target(Strict):
    """The forecast quantity: its index among the past features, and its deviation in raw units."""

    name: str
    feature: int = Field(ge=0)
    scale: float = Field(gt=0)


class Start(Strict):
    """The decoder's first input, for the record: the encoder graph emits it as `previous_0`."""

    kind: Literal["constant", "last"]
    value: float | None = None


class State(Strict):
    """A recurrent tensor [B, width]: made by the encoder, taken and returned by each step."""

    encoder_output: str
    step_input: str
    step_output: str
    width: int = Field(ge=1)


class Memory(Strict):
    """A tensor that the encoder makes once and every step reads; `shape` leaves out the batch axis."""

    encoder_output: str
    step_input: str
    shape: tuple[int, ...]


class Mask(Strict):
    """The polarity of the `mask` column on disk."""

    excluded: Literal[1] = 1


class Loss(Strict):
    """The two means of the squared error, in squared target units; None where nothing was observed."""

    masked_mse: float | None
    observed_mse: float | None


class Certified(Strict):
    """What the runner's own loop scored on the validation windows when export let the bundle out."""

    windows: int = Field(ge=1)
    teacher_forced: Loss
    free_running: Loss


class Tolerances(Strict):
    """The largest differences allowed, in units of the target's deviation."""

    parity: float = Field(gt=0)
    golden: float = Field(gt=0)


class Manifest(Strict):
    """Everything that the runner knows about a model. See docs/bundle-format.md for the normative text."""

    format_version: Literal[1]
    name: str
    created_at: str
    bundle_id: str = Sha256
    export_id: str = Sha256
    context_length: int = Field(ge=1)
    horizon: int = Field(ge=1)
    season_length: int | None = Field(default=None, ge=1)
    features: Features
    past_observed: bool
    target: Target
    start: Start
    scaling: Literal["none", "standard", "window"]
    encoder: Graph
    decoder_step: Graph
    states: tuple[State, ...] = Field(min_length=1)
    memory: tuple[Memory, ...]
    mask: Mask
    excluded_share: float = Field(ge=0, le=1)
    certified: Certified
    tolerances: Tolerances
    golden: BundleFile
    certificate: BundleFile
    control_flow: tuple[str, ...] = ()
    opset: int
    producers: dict[str, str]

    @model_validator(mode="after")
    def _names_fit(self) -> "Manifest":
        if self.target.feature >= len(self.features.past):
            raise ValueError(
                f"target.feature is {self.target.feature}, but there are {len(self.features.past)} features"
            )
        encoder = {"past", "previous_0", *(["past_observed"] if self.past_observed else [])}
        step = {"previous", "prediction", *(["future_known"] if self.features.future_known else [])}
        for name, graph, roles in (("encoder", self.encoder, encoder), ("decoder_step", self.decoder_step, step)):
            if graph.tensors.keys() != roles:
                raise ValueError(f"{name} names tensors for {sorted(graph.tensors)}, expected {sorted(roles)}")
        return self

    @property
    def past_width(self) -> int:
        return len(self.features.past)

    @property
    def future_width(self) -> int:
        return len(self.features.future_known)

    def files(self) -> tuple[BundleFile, ...]:
        """Return every file that the bundle must hold beside the manifest."""
        return (self.encoder, self.decoder_step, self.golden, self.certificate)


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
    if version != FORMAT_VERSION:
        raise BundleError(
            explain(
                "the bundle's format version is not known to this freerun",
                got=version,
                expected=FORMAT_VERSION,
                remedy="score it with the freerun that wrote it, or export it again",
            )
        )
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise BundleError("the manifest does not fit the bundle format:" + listing(problems(error))) from error
    if bundle_id_of(raw) != manifest.bundle_id:
        raise BundleError(
            explain(
                "the manifest was altered", got=bundle_id_of(raw), expected=manifest.bundle_id, remedy="export again"
            )
        )
    return manifest


def problems(error: ValidationError) -> list[str]:
    """Return one line for each thing that pydantic found: where, what, and what stood there."""
    return [f"{'.'.join(map(str, item['loc'])) or 'all'}: {item['msg']}" for item in error.errors()]


def _parse_json(text: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(explain("the manifest is not JSON", got=error)) from error
    if not isinstance(raw, dict):
        raise BundleError(explain("the manifest is not a JSON object", got=type(raw).__name__, expected="an object"))
    return raw
