"""The checksum CRC-32C (Castagnoli), many bytes at a time with NumPy."""

from __future__ import annotations

from functools import cache

import numpy as np

POLYNOMIAL = 0x82F63B78  # reflected
BLOCK = 64  # bytes
PIECE = 1 << 16  # bytes looked up at once: what it needs stays in the second-level cache
ONES = 0xFFFFFFFF


def crc32c(data: bytes | memoryview) -> int:
    r"""CRC-32C of some bytes.

    Without its initial and final inversion the checksum is linear over the bits, so that it is the exclusive or of one
    contribution per byte: each of a block of 64 bytes is looked up by its value and its place. Blocks are then joined
    in pairs, :math:`c(ab) = s(c(a)) \oplus c(b)`, with s the effect of as many zero bytes as b has, itself linear and
    looked up.

    Example:
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'
    """
    view = np.frombuffer(data, dtype=np.uint8)
    # Zero bytes in front change nothing.
    padded = np.zeros(-(-view.size // BLOCK) * BLOCK, dtype=np.uint8)
    padded[padded.size - view.size :] = view
    place = np.arange(BLOCK, dtype=np.intp) * 256
    blocks = np.empty(padded.size // BLOCK, dtype=np.uint32)
    for start in range(0, padded.size, PIECE):
        piece = padded[start : start + PIECE].reshape(-1, BLOCK)
        found = _contributions().take(piece + place)
        np.bitwise_xor.reduce(found, axis=1, out=blocks[start // BLOCK : (start + piece.size) // BLOCK])
    level = BLOCK.bit_length() - 1
    while blocks.size > 1:
        if blocks.size % 2:
            blocks = np.concatenate([np.zeros(1, dtype=np.uint32), blocks])
        blocks = _after_zeros(blocks[0::2], level) ^ blocks[1::2]
        level += 1
    total = int(blocks[0]) if blocks.size else 0
    return total ^ _initial(view.size) ^ ONES


def masked(crc: int) -> int:
    """The form in which a TFRecord file stores a checksum.

    Example:
        >>> hex(masked(crc32c(b"123456789")))
        '0xc78ab0e5'
    """
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & ONES


def _initial(length: int) -> int:
    """What the initial inversion comes to after so many bytes."""
    state = np.array([ONES], dtype=np.uint32)
    for level in range(length.bit_length()):
        if length >> level & 1:
            state = _after_zeros(state, level)
    return int(state[0])


@cache
def _contributions() -> np.ndarray:
    """Contribution of each value of a byte at each place of a block, [64 x 256] flattened."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(POLYNOMIAL), table >> 1)
    places = [table]
    for _ in range(BLOCK - 1):
        places.append(table[places[-1] & 255] ^ (places[-1] >> 8))
    return np.concatenate(places[::-1])


@cache
def _zeros(level: int) -> np.ndarray:
    """What 2^level zero bytes make of each byte of the state, [4, 256]."""
    if level == 0:
        last = _contributions()[-256:]
        state = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32)[:, None])
        return last[state & 255] ^ (state >> 8)
    return _after_zeros(_zeros(level - 1), level - 1)


def _after_zeros(state: np.ndarray, level: int) -> np.ndarray:
    """The states after 2^level zero bytes."""
    table = _zeros(level)
    return (
        table[0].take(state & 255)
        ^ table[1].take(state >> 8 & 255)
        ^ table[2].take(state >> 16 & 255)
        ^ table[3].take(state >> 24)
    )
