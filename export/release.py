"""From finished Keras models to a bundle: write the graphs, audit, certify, and let out or refuse."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.bundle_writer import CertifiedForm, certificate_of, draft_manifest, provisional, write_bundle
from export.certify import (
    GOLDEN_WINDOWS,
    Candidate,
    Certificate,
    audit_pair,
    certify,
    first_windows,
    production_loop,
)
from export.config import BundleConfig, Scaling
from export.forms import make_form
from export.graphs import convert
from export.model import Forecasters
from export.quantize import certified_int8
from export.recipe import SeriesRecipe
from export.source import TrainingWindows
from export.windows import Statistics
from runner.batch import Feature
from runner.bundle import audit_bundle, open_bundle
from runner.manifest import Manifest
from runner.precision import Precision
from runner.totals import Score


@dataclass(frozen=True, slots=True)
class Unreleased:
    """Models that ask to be let out.

    Attributes:
        models: in raw units.
        config: names, start value in raw units, precisions.
        scaling: what the graphs do to raw units.
        statistics: of the data that the tolerances and the mask's polarity are judged by.
        feature: index of the target among the past features, of several targets one for each.
        losses: of the Keras models on the validation windows, (teacher-forced, free-running).
        origin: where the weights come from, for the certificate.
        series: how windows are cut, where the models were trained on series.
    """

    models: Forecasters
    config: BundleConfig
    scaling: Scaling
    statistics: Statistics
    feature: Feature
    losses: tuple[Score, Score]
    origin: dict[str, Any]
    series: SeriesRecipe | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """A bundle that was let out."""

    manifest: Manifest
    certificate: Certificate
    certified: dict[Precision, CertifiedForm]


def release(given: Unreleased, valid: TrainingWindows, out: Path) -> Released:
    """Write the bundle of models that do in ONNX what they do in Keras.

    Args:
        given: the models, and what is known of them.
        valid: windows to certify on.
        out: where the bundle goes; nothing may be there.

    Raises:
        CertificationError: the graphs differ from the Keras models; no bundle is written.
        OutputError: the bundle cannot be written.
    """
    config, models = given.config, given.models
    pair = convert(models)
    audit = audit_pair(models, pair)
    draft = draft_manifest(config, valid.sizes, given.statistics, given.feature, models, pair, scaling=given.scaling)
    draft |= given.series.record() if given.series else {}
    candidate = Candidate(models, make_form(pair, provisional(draft), "fp32"), provisional(draft), config)
    certificate = certify(candidate, valid, audit, given.losses)
    forms: dict[Precision, CertifiedForm] = {"fp32": _certified_fp32(candidate, certificate, given.origin, valid)}
    if "int8" in config.precision:
        forms["int8"] = certified_int8(pair, candidate.graphs, candidate.manifest, valid)
    manifest = write_bundle(out, draft, forms)
    audit_bundle(open_bundle(out))  # the runner must take what export wrote
    return Released(manifest, certificate, forms)


def _certified_fp32(
    candidate: Candidate, certificate: Certificate, origin: dict[str, Any], valid: TrainingWindows
) -> CertifiedForm:
    golden = first_windows(valid, GOLDEN_WINDOWS)
    prediction = production_loop(candidate.manifest, candidate.graphs)(golden, False)
    record = certificate_of(certificate, origin, candidate.manifest.export_id, candidate.manifest.target_width)
    return CertifiedForm(candidate.graphs, (golden, prediction), certificate.runner, record)
