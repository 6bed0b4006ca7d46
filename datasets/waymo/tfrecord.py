"""Records of TFRecord files, checked, without TensorFlow."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from geoeq.datasets.waymo.crc32c import crc32c, masked

HEAD = struct.Struct("<QI")  # length, its checksum
TAIL = struct.Struct("<I")  # checksum of the payload


class Record(NamedTuple):
    """A record: its payload, and where that begins in the file."""

    payload: bytes
    offset: int


def read_records(path: str | Path) -> Iterator[Record]:
    """The records of a TFRecord file, one after another.

    A record is its length (8 bytes), a masked CRC-32C of these, the payload, and a masked CRC-32C of it; all numbers
    are little-endian. Both checksums are verified before anything is given out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: one line that names file and byte for a file that is cut short or altered.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "two.tfrecord")
        >>> _ = path.write_bytes(b"".join(map(framed, [b"one", b"two"])))
        >>> [record.payload for record in read_records(path)]
        [b'one', b'two']
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = 0
        while start < size:
            head = file.read(HEAD.size)
            if len(head) < HEAD.size:
                raise _fault(
                    path, start, f"the file ends inside a record's head, after {len(head)} of {HEAD.size} bytes"
                )
            length, check = HEAD.unpack(head)
            if masked(crc32c(head[:8])) != check:
                raise _fault(path, start, "the checksum of a record's length is wrong: altered, or no TFRecord file")
            left = size - start - HEAD.size
            if length + TAIL.size > left:
                raise _fault(path, start, f"the file ends inside a record, after {left} of {length + TAIL.size} bytes")
            payload = file.read(length)
            tail = file.read(TAIL.size)
            if len(tail) < TAIL.size or masked(crc32c(payload)) != TAIL.unpack(tail)[0]:
                raise _fault(path, start + HEAD.size, "the checksum of a record is wrong: the file is altered")
            yield Record(payload, start + HEAD.size)
            start += HEAD.size + length + TAIL.size


def framed(payload: bytes) -> bytes:
    """A record with that payload, as it stands in a file.

    Example:
        >>> framed(b"").hex()
        '000000000000000029039807d8ea82a2'
    """
    length = struct.pack("<Q", len(payload))
    return length + TAIL.pack(masked(crc32c(length))) + payload + TAIL.pack(masked(crc32c(payload)))


def _fault(path: Path, offset: int, what: str) -> ValueError:
    return ValueError(f"{path}, byte {offset}: {what}")
