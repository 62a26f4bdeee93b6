# SPDX-License-Identifier: Apache-2.0
"""The checksum in TensorFlow's files."""

import google_crc32c
import numpy as np
from numpy.typing import NDArray


def masked_crc32c(data: bytes | NDArray[np.uint8]) -> int:
    """CRC-32C of ``data``, masked as the format has it, so that a checksum may be summed again."""
    if google_crc32c.implementation != "c":  # it cannot read arrays
        data = bytes(data)
    crc = google_crc32c.value(data)
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return (rotated + 0xA282EAD8) & 0xFFFFFFFF
