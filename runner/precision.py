"""The precisions that a bundle can hold."""

from typing import Literal

Precision = Literal["fp32", "int8"]
"""fp32 is the forecaster as it was trained, and always there; the others are made of it, in folders of their names."""
