"""Checksums of what a trace holds. HDF5 has some of its own, but none over texts and plain columns."""

import json
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from outpace.benchmarks.trace import schema

NAME: Final = "crc32"  # of the attribute that holds one


def of_column(values: np.ndarray) -> int:
    """CRC-32 of the values, little-endian."""
    return zlib.crc32(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)


def of_attributes(attributes: Mapping[str, Any]) -> int:
    """CRC-32 of the root attributes of the schema, Python's own values, as JSON with sorted keys; others are the
    reader's to add."""
    known = (schema.ATTRIBUTES | schema.OPTIONAL_ATTRIBUTES).keys() - {NAME}
    values = {name: attributes[name] for name in known & attributes.keys()}
    return zlib.crc32(json.dumps(values, sort_keys=True, default=lambda value: value.tolist()).encode())
