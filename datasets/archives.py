"""Archives from elsewhere, unpacked so that nothing gets outside the folder."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from geoeq.datasets.checks import require

CHUNK = 1 << 20
MAX_MEMBERS = 100_000
OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


def extract(archive: str | Path, folder: str | Path, *, max_bytes: int = 10 << 30) -> Path:
    """Unpack a zip file or a tar file (plain, gz, bz2 or xz) into a new folder, whole or not at all.

    Members are files and folders whose names stay below ``folder``. Absolute names, names with "..", backslashes or
    colons, links, devices and encrypted members are refused, and so is an archive that would unpack to more than
    ``max_bytes`` bytes or 100,000 members, whatever sizes it states. Permissions and owners are not taken over.
    Checksums are verified and a tar file must have its end mark, so that a truncated archive is refused; an altered
    one is too, except for the content of members in a plain tar file, of which there is no checksum.

    Args:
        archive: the file.
        folder: where its members go; it must be empty or not exist yet.
        max_bytes: bound on the size of all members together.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: if there is no such archive.
        ValueError: one line for an archive that is damaged, of another kind or refused, or a folder that holds files.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> with zipfile.ZipFile(root / "walks.zip", "w") as file:
        ...     file.writestr("walks/first.txt", "0 1 2.0 3.0")
        >>> extract(root / "walks.zip", root / "raw").joinpath("walks", "first.txt").read_text()
        '0 1 2.0 3.0'
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.is_file():
        raise FileNotFoundError(f"archive must be a file, got {archive}, which does not exist")
    empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    require(empty, "folder", "empty or not there yet", str(folder))
    temporary = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        # Headers and padding of a tar file count too, for they also come out of the compression.
        members = _zip_members(archive) if _is_zip(archive) else _tar_members(archive, max_bytes)
        _write(members, temporary, max_bytes)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except Exception as error:  # the readers have no common class for the ways in which an archive can be damaged
        raise ValueError(f"{archive} cannot be unpacked ({' '.join(str(error).split())})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write(members: Iterator[tuple[str, IO[bytes] | None]], folder: Path, max_bytes: int) -> None:
    """Write members, each its name and its content; None stands for a folder."""
    left = max_bytes
    for number, (name, content) in enumerate(members):
        if number >= MAX_MEMBERS:
            raise ValueError(f"it has more than {MAX_MEMBERS} members")
        target = folder.joinpath(*_safe_parts(name))
        if content is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with content, open(target, "xb") as file:
            while chunk := content.read(CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise ValueError(f"it unpacks to more than {max_bytes} bytes")
                file.write(chunk)


def _safe_parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    # A colon or a backslash leads elsewhere on other systems.
    if not name or path.is_absolute() or ".." in path.parts or any(mark in name for mark in "\\:\0"):
        raise ValueError(f"the member {name[:80]!r} would leave the folder")
    return path.parts


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"the member {member.filename[:80]!r} is a link or a device")
            yield member.filename, None if member.is_dir() else file.open(member)


def _tar_members(archive: Path, max_bytes: int) -> Iterator[tuple[str, IO[bytes] | None]]:
    with open(archive, "rb") as start:
        head = start.read(6)
    opener: Callable[..., Any] = next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), open)
    with opener(archive, "rb") as raw:
        bounded = _Bounded(raw, max_bytes + MAX_MEMBERS * 2 * tarfile.BLOCKSIZE)
        with tarfile.open(fileobj=bounded, mode="r|", tarinfo=_Header) as file:  # type: ignore[call-overload]
            for member in file:
                if not (member.isreg() or member.isdir()) or member.issparse():
                    raise ValueError(f"the member {member.name[:80]!r} is a link, a device or sparse")
                yield member.name, None if member.isdir() else file.extractfile(member)
            # The end mark is two blocks of zeros, of which tarfile reads one.
            if file.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise ValueError("it has no end mark (truncated)")
        while bounded.read(CHUNK):  # the checksum of a compressed file is verified at its very end
            pass


def _is_zip(archive: Path) -> bool:
    """Whether it is a zip from its first byte on; zipfile also finds one that is the last member of a tar."""
    with archive.open("rb") as file:
        starts = file.read(2) == b"PK"
    return starts and zipfile.is_zipfile(archive)


class _Header(tarfile.TarInfo):
    """The header of a member; tarfile would take a damaged or missing one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Any:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf == bytes(tarfile.BLOCKSIZE):
                raise
            raise ValueError(f"it is neither zip nor tar, truncated or damaged: {error}") from error


class _Bounded:
    """A stream that ends with an error once more than ``limit`` bytes are asked of it."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self.stream, self.left = stream, limit

    def read(self, size: int) -> bytes:
        chunk = self.stream.read(min(size, self.left + 1))
        self.left -= len(chunk)
        if self.left < 0:
            raise ValueError("it unpacks to more bytes than allowed")
        return chunk
