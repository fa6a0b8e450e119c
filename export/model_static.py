"""What the encoder makes of features that do not change: the same vector beside every step of the context."""

from typing import Any

from export.config import TrainConfig
from export.model_scaling import GraphScaling
from runner.schema import Sizes


class StaticFeatures:
    """Scales the numbers, looks words up, and repeats both over the context."""

    def __init__(self, sizes: Sizes, config: TrainConfig, scaling: GraphScaling) -> None:
        from keras import layers

        self.numbers, self.scaling = len(sizes.numbers), scaling
        self.words = [len(category.values) for category in sizes.categories]
        self.tables = [
            layers.Embedding(1 + words, config.embedding or default_width(words), name=f"category_{place}")
            for place, words in enumerate(self.words)
        ]

    def __call__(self, static: Any, steps: Any) -> Any:
        """Return steps [B, C, W] with the features of `static` [B, S] behind them."""
        from keras import ops

        parts = [self.scaling.static(static[:, : self.numbers])] if self.numbers else []
        for place, (table, words) in enumerate(zip(self.tables, self.words, strict=True), self.numbers):
            index = ops.cast(static[:, place], "int32")
            parts.append(table(ops.clip(index, 0, words)))  # no index leads out of the table, whatever comes in
        told = ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        # Not a sum with zeros: Keras takes a summand [1, C, 1] for a bias where C is the number of features.
        repeated = ops.multiply(told[:, None], ops.ones_like(steps[:, :, :1]))
        return ops.concatenate([steps, repeated], axis=-1)


def default_width(words: int) -> int:
    """Return one more than the bits that tell so many words apart."""
    return 1 + (words - 1).bit_length()
