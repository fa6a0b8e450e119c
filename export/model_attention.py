"""Attention over the encoder's outputs, which cross to the decoder as `memory`."""

from abc import ABC, abstractmethod
from typing import Any

MEMORY = "memory"
"""The encoder's outputs, as wide as the decoder [B, C, U]."""


class Attention(ABC):
    """Looks up the encoder's outputs by the decoder's, and mixes what it finds into these.

    The encoder's outputs are projected once; the projection is keys and values of every step. What a score is, is all
    that subclasses differ in.
    """

    def __init__(self, units: int) -> None:
        from keras import layers

        self.project = layers.Dense(units, use_bias=False, name="attention_memory")
        self.combine = layers.Dense(units, activation="tanh", name="attention_combine")

    def remember(self, outputs: Any) -> Any:
        """Return the memory [B, C, U] of the encoder's outputs [B, C, W]."""
        return self.project(outputs)

    def __call__(self, y: Any, memory: Any) -> Any:
        """Return the decoder's outputs [B, T, U] with what they find in memory."""
        from keras import ops

        return self.combine(ops.concatenate([y, self.found(y, memory)], axis=-1))

    @abstractmethod
    def found(self, y: Any, memory: Any) -> Any:
        """Return the memory's mean for each step [B, T, U], weighted by the scores."""


class Luong(Attention):
    """Scores are products of outputs and projected memory ("general" in Luong's paper)."""

    def __init__(self, units: int) -> None:
        from keras import layers

        super().__init__(units)
        self.scores = layers.Attention(name="attention")

    def found(self, y: Any, memory: Any) -> Any:
        return self.scores([y, memory])


class Bahdanau(Attention):
    """Scores are a product with the tanh of the sum of both, each projected."""

    def __init__(self, units: int) -> None:
        from keras import layers

        super().__init__(units)
        self.query = layers.Dense(units, name="attention_query")
        self.scores = layers.AdditiveAttention(name="attention")

    def found(self, y: Any, memory: Any) -> Any:
        return self.scores([self.query(y), memory])


ATTENTIONS: dict[str, type[Luong | Bahdanau]] = {"luong": Luong, "bahdanau": Bahdanau}
"""By their name in the config."""


def attention_of(kind: str, units: int) -> Attention | None:
    """Return the attention that a config asks for; None = the decoder has the states alone."""
    return None if kind == "none" else ATTENTIONS[kind](units)
