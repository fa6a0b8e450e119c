"""Windows without targets, as the graphs see them in production."""

import numpy as np

from runner.batch import WindowBatch


def without_targets(past, past_observed=None, future_known=None):
    """Return a batch of good windows of these arrays [B, ...]."""
    return WindowBatch(
        past=past,
        past_observed=past_observed,
        future_known=future_known,
        target=None,
        observed=None,
        decoder_input=None,
        has_target=np.zeros(len(past), bool),
        reasons=np.zeros(len(past), np.uint8),
    )
