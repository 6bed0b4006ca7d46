"""The wire format of protocol buffers: fields of a message one after another, without generated code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
SIZES = {FIXED64: 8, FIXED32: 4}
LONGEST = 10  # of the longest varint


class WireError(ValueError):
    """What is wrong with a message, and at which byte of it."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(what)
        self.offset = offset


class Field(NamedTuple):
    """One field: its number, its wire type, the value of a varint, and where the content of the others lies."""

    number: int
    kind: int
    value: int
    start: int
    stop: int


def varint(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, the lowest first, and the place after it.

    Raises:
        WireError: if it does not end before ``stop`` or after ten bytes.

    Example:
        >>> varint(bytes([0xAC, 0x02]), 0, 2)
        (300, 2)
    """
    value = shift = 0
    for at in range(start, min(stop, start + LONGEST)):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + 1
        shift += 7
    raise WireError(start, "a number does not end")


def fields(data: bytes, start: int = 0, stop: int | None = None) -> Iterator[Field]:
    """The fields of the message ``data[start:stop]``, in the order in which they stand there.

    Raises:
        WireError: for a field that does not end inside the message, a field number 0, or a wire type that is no longer
            in use (groups) or never was.

    Example:
        >>> [field[:3] for field in fields(bytes([0x08, 0x96, 0x01, 0x12, 0x02, 0x68, 0x69]))]
        [(1, 0, 150), (2, 2, 0)]
    """
    stop = len(data) if stop is None else stop
    at = start
    while at < stop:
        begin = at
        key, at = varint(data, at, stop)
        number, kind = key >> 3, key & 7
        value = 0
        if kind == VARINT:
            content = at
            value, at = varint(data, at, stop)
        elif kind == BYTES:
            length, content = varint(data, at, stop)
            at = content + length
        elif kind in SIZES:
            content, at = at, at + SIZES[kind]
        else:
            raise WireError(begin, f"a field has the wire type {kind}, which no message of these has")
        if number == 0:
            raise WireError(begin, "a field has the number 0")
        if at > stop:
            raise WireError(begin, f"a field of {at - content} bytes is longer than the {stop - content} that are left")
        yield Field(number, kind, value, content, at)


def signed(value: int) -> int:
    """A varint as the signed integer that it stands for.

    Example:
        >>> signed(2**64 - 1)
        -1
    """
    return value - (1 << 64) if value >> 63 else value
