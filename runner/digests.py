"""The one form of JSON that digests are taken over."""

import hashlib
import json
from typing import Any


def canonical(value: Any) -> bytes:
    """Write JSON with sorted keys, no spaces and no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Any) -> str:
    """Return the sha256 of the canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()
