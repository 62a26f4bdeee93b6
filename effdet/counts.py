# SPDX-License-Identifier: Apache-2.0
"""How many there are of something, in words."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """``1 image``, ``2 images``, ``12,000 boxes``.

    Args:
        count: how many.
        noun: what one of them is called.
        plural: what several are called (default: ``noun`` with an s).
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
