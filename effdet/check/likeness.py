# SPDX-License-Identifier: Apache-2.0
"""Pictures that look alike, found by hashes of 64 bits without comparing all with all."""

import functools

import numpy as np
from numpy.typing import NDArray

THUMBNAIL = 16
"""Pixels of a side of what pictures are compared by in the end."""

DISTANCE = 7
"""Bits in which the hashes of pictures that look alike may differ."""

BANDS = DISTANCE + 1
"""Pieces of a hash: one of them is the same in two hashes that differ in fewer bits."""

SAME = 3
"""Pictures of the very same hash that each is compared with."""

NEIGHBOURS = 400
"""Pictures of a bucket that each is compared with; more share a piece by chance alone."""

CORRELATION = 0.97
COLOUR = 12.0
"""Levels of 255 in which the pixels of thumbnails of one brightness may differ on average."""

Bytes = NDArray[np.uint8]
Hashes = NDArray[np.uint64]
Pairs = NDArray[np.int64]


def perceptual_hash(gray: NDArray[np.float64]) -> int:
    """64 bits that hardly change where a picture is scaled, compressed or made brighter.

    They say which of the 64 lowest frequencies of the cosine transform, without the mean, are above
    their median.

    Args:
        gray: ``[32, 32]`` brightness.
    """
    basis = _cosines(len(gray))
    frequencies = (basis @ gray @ basis.T).reshape(-1)[1:]
    bits = frequencies > np.median(frequencies)
    return int.from_bytes(np.packbits(bits[:64]).tobytes(), "big")


@functools.cache
def _cosines(side: int) -> NDArray[np.float64]:
    """The first 9 rows of the discrete cosine transform (DCT-II) of ``side`` values."""
    place = (np.arange(side) + 0.5) / side
    return np.cos(np.pi * np.arange(9)[:, None] * place)


def near_pairs(hashes: Hashes, thumbnails: Bytes) -> Pairs:
    """Pairs of pictures that look alike.

    Args:
        hashes: ``[N]``.
        thumbnails: ``[N, 16, 16, 3]`` RGB.

    Returns:
        ``[P, 2]`` positions, the smaller first. Of pictures that are all alike not every pair is
        there, but enough to connect them.
    """
    pairs = candidates(hashes)
    if not len(pairs):
        return pairs
    keep = [look_alike(thumbnails[part[:, 0]], thumbnails[part[:, 1]]) for part in _parts(pairs)]
    return pairs[np.concatenate(keep)]


def candidates(hashes: Hashes) -> Pairs:
    """``[P, 2]`` pairs whose hashes differ in at most :data:`DISTANCE` bits.

    Of many pictures with one hash only neighbours make pairs, and the first stands for all of them.
    """
    order = np.argsort(hashes, kind="stable")
    found = [_side_by_side(order, hashes, shift) for shift in range(1, SAME + 1)]
    different, first = np.unique(hashes, return_index=True)
    found.append(first[_near(different)])
    pairs = np.sort(np.concatenate(found), axis=1)
    return pairs[np.lexsort(pairs.T[::-1])]


def _side_by_side(order: Pairs, hashes: Hashes, shift: int) -> Pairs:
    """Pairs of the same hash that are ``shift`` apart when sorted."""
    a, b = order[:-shift], order[shift:]
    same = hashes[a] == hashes[b]
    return np.stack([a[same], b[same]], axis=1)


def _near(hashes: Hashes) -> Pairs:
    """``[P, 2]`` pairs of hashes, all different, that differ in few bits.

    Those that share one of the pieces stand side by side when sorted by it.
    """
    width, count = 64 // BANDS, len(hashes)
    found = [np.zeros(0, np.int64)]
    for band in range(BANDS):
        piece = (hashes >> np.uint64(band * width)) & np.uint64(2**width - 1)
        order = np.argsort(piece, kind="stable")
        for shift in range(1, min(NEIGHBOURS, count - 1) + 1):
            a, b = order[:-shift], order[shift:]
            same = piece[a] == piece[b]
            if not same.any():
                break
            a, b = a[same], b[same]
            near = bit_count(hashes[a] ^ hashes[b]) <= DISTANCE
            found.append(np.minimum(a, b)[near] * count + np.maximum(a, b)[near])
    codes = np.unique(np.concatenate(found))
    return np.stack([codes // max(count, 1), codes % max(count, 1)], axis=1)


def bit_count(values: Hashes) -> NDArray[np.int64]:
    """How many bits of each value are set."""
    values = np.ascontiguousarray(values)
    bits = np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1)
    return bits.sum(axis=1, dtype=np.int64)


def look_alike(a: Bytes, b: Bytes) -> NDArray[np.bool_]:
    """``[P]``: whether thumbnails ``[P, 16, 16, 3]`` are the same but for brightness and noise."""
    first, second = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    first -= first.mean(axis=1, keepdims=True)
    second -= second.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    correlation = (first * second).sum(axis=1) / np.maximum(norm, 1e-9)
    difference = np.abs(first - second).mean(axis=1)
    alike: NDArray[np.bool_] = (correlation >= CORRELATION) & (difference <= COLOUR)
    return alike


def groups(pairs: Pairs, count: int) -> NDArray[np.int64]:
    """``[count]``: the smallest position that each is connected with by ``pairs``."""
    root = np.arange(count)
    while True:
        smallest = root.copy()
        np.minimum.at(smallest, pairs[:, 0], root[pairs[:, 1]])
        np.minimum.at(smallest, pairs[:, 1], root[pairs[:, 0]])
        smallest = smallest[smallest]
        if np.array_equal(smallest, root):
            return root
        root = smallest


def _parts(pairs: Pairs, size: int = 20_000) -> list[Pairs]:
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]
