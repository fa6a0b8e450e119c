"""Bundles that their exporter got wrong, and did not notice: closed, with golden windows that match.

What training says of them is true: the certificate has the loss of the right Keras model.
"""

from dataclasses import dataclass, replace

from export.bundle_writer import CertifiedForm, certificate_of, draft_manifest, provisional, write_bundle
from export.certify import Certificate, first_windows, losses_of, production_loop
from export.forms import make_form
from export.graphs import convert
from export.source import trainable
from export.training import evaluate
from runner.gap.windows import digest_of


@dataclass(frozen=True, slots=True)
class Right:
    """A right pair of models, and what they were made of."""

    config: object
    models: object
    sizes: object
    statistics: object
    valid: object


def write_broken(out, right, models):
    """Write a bundle of other models under the right ones' losses."""
    pair = convert(models)
    draft = draft_manifest(right.config, right.sizes, right.statistics, 0, models, pair, scaling=right.config.scaling)
    manifest = provisional(draft)
    graphs = make_form(pair, manifest, "fp32")
    losses = losses_of(manifest, graphs, right.valid)
    keras = evaluate(right.models, right.valid, right.config, 0)
    digest = digest_of(trainable(block) for block in right.valid.blocks())
    certificate = Certificate({}, (), keras, losses, manifest.tolerances.parity, digest)
    golden = first_windows(right.valid, 8)
    forecasts = production_loop(manifest, graphs)(golden, False)
    record = certificate_of(certificate, {}, pair.export_id)
    write_bundle(out, draft, {"fp32": CertifiedForm(graphs, (golden, forecasts), losses, record)})
    return out


def states_swapped(keras, models, _right):
    previous, hidden, cell = models.encoder.outputs
    return replace(models, encoder=keras.Model(models.encoder.inputs, [previous, cell, hidden], name="encoder"))


def states_swapped_each_step(keras, models, _right):
    prediction, hidden, cell = models.step.outputs
    return replace(models, step=keras.Model(models.step.inputs, [prediction, cell, hidden], name="decoder_step"))


def cell_reset(keras, models, _right):
    prediction, hidden, cell = models.step.outputs
    return replace(models, step=keras.Model(models.step.inputs, [prediction, hidden, cell * 0.0], name="decoder_step"))


def state_not_carried(keras, models, _right):
    prediction, *_ = models.step.outputs
    states = [entry for entry in models.step.inputs if entry.name in models.states]
    kept = [state * 1.0 for state in states]
    return replace(models, step=keras.Model(models.step.inputs, [prediction, *kept], name="decoder_step"))


def start_value(keras, models, _right):
    previous, *states = models.encoder.outputs
    return replace(models, encoder=keras.Model(models.encoder.inputs, [previous * 0.0, *states], name="encoder"))


def inputs_shifted(keras, models, _right):
    """Feed each step the value before the one that it is given."""
    held = keras.Input((1,), name="hidden_held")
    inputs = {entry.name: keras.Input(entry.shape[1:], name=entry.name) for entry in models.step.inputs}
    given = [held[:, :, None] if name == "previous" else tensor for name, tensor in inputs.items()]
    outputs = [*models.step(given), inputs["previous"][:, :, 0] * 1.0]
    step = keras.Model([*inputs.values(), held], outputs, name="decoder_step")
    encoder = keras.Model(
        models.encoder.inputs, [*models.encoder.outputs, models.encoder.outputs[0] * 1.0], name="encoder"
    )
    states = (*models.states, "hidden_held")
    return replace(models, encoder=encoder, step=step, states=states, widths={**models.widths, "hidden_held": (1,)})


def scaling_dropped(keras, models, right):
    """Feed the step what it takes for scaled already: the scaling of its input undone by its inverse."""
    found = right.statistics
    inputs = {entry.name: keras.Input(entry.shape[1:], name=entry.name) for entry in models.step.inputs}
    raw = inputs["previous"] * found.target_scale + found.target_location
    step = keras.Model(list(inputs.values()), models.step([raw, *list(inputs.values())[1:]]), name="decoder_step")
    return replace(models, step=step)


EACH_STEP = (states_swapped_each_step, cell_reset, state_not_carried, inputs_shifted, scaling_dropped)
FAULTS = {fault.__name__: fault for fault in (states_swapped, start_value, *EACH_STEP)}
