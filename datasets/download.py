"""Downloads that end with the right file or with none."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from geoeq.datasets.checks import require

try:
    import fcntl
except ImportError:  # no such locks on this system: two processes that download one file may then disturb each other
    fcntl = None  # type: ignore[assignment]

CHUNK = 1 << 16
TRIES = 5  # of one mirror, as long as each one brings the file further


def data_root(root: str | Path | None = None, name: str = "") -> Path:
    """Folder of a data set: ``root``, else ``name`` in the folder of the variable GEOEQ_DATA, else ``data/name``.

    Example:
        >>> data_root("recordings").name
        'recordings'
    """
    if root is not None:
        return Path(root).expanduser()
    return Path(os.environ.get("GEOEQ_DATA") or "data").expanduser() / name


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return _digest(file)


def download(
    urls: Sequence[str], path: str | Path, sha256: str, *, size: int | None = None, timeout: float = 30.0
) -> Path:
    """Bring a file here from the first mirror that has it, unless it is here already.

    The bytes go to ``path`` with ``.part`` appended. They get their name only once they have the right checksum; an
    interrupted download leaves them, and the next one goes on where it stopped, from any mirror. Progress is shown on
    stderr if that is a terminal. Proxies are taken from the environment, as urllib does.

    Args:
        urls: the same file at several addresses, http or https, the best first.
        path: where the file is to be; its folder is made.
        sha256: checksum of the whole file, 64 hexadecimal digits.
        size: of the file in bytes, if known: a mirror that offers more or less is passed over at once.
        timeout: seconds without news from a mirror after which it is given up.

    Returns:
        The path.

    Raises:
        ValueError: one line if no mirror has the file, with the reason of each, or if another file is at ``path``.
        OSError: if the folder cannot be written.
    """
    require(len(urls) > 0 and not isinstance(urls, str), "urls", "a sequence of addresses", urls)
    for url in urls:
        require(re.match("https?://", url) is not None, "urls", "http or https addresses", url)
    require(re.fullmatch("[0-9a-f]{64}", sha256) is not None, "sha256", "64 hexadecimal digits", sha256)
    require(timeout > 0, "timeout", "positive", timeout)
    path = Path(path)
    if _is_here(path, sha256):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with open(part, "a+b") as file, _alone(file):
        found = _is_here(path, sha256)  # another process may have brought it while this one waited
        reasons = [] if found else _first_mirror(urls, file, sha256, size, timeout)
        empty = file.seek(0, os.SEEK_END) == 0
    if found or (reasons and empty):
        part.unlink(missing_ok=True)
    if reasons:
        raise ValueError(f"{path} could not be downloaded ({'; '.join(reasons)}): put it there by hand")
    if not found:
        with contextlib.suppress(FileNotFoundError):  # a process that waited for the lock may be the first to rename
            os.replace(part, path)
    return path


def _is_here(path: Path, sha256: str) -> bool:
    if not path.exists():
        return False
    got = sha256_of(path)
    require(got == sha256, f"{path}", f"the file with SHA-256 {sha256} (delete it to download it again)", got)
    return True


@contextlib.contextmanager
def _alone(file: IO[bytes]) -> Iterator[None]:
    """Wait until no other process writes this file."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _first_mirror(urls: Sequence[str], file: IO[bytes], sha256: str, size: int | None, timeout: float) -> list[str]:
    """Fill the file from the first mirror that has it; otherwise say why each of them failed."""
    reasons = []
    for url in urls:
        reason = _from_mirror(url, file, sha256, size, timeout)
        if not reason:
            return []
        reasons.append(f"{url}: {reason}")
    return reasons


def _from_mirror(url: str, file: IO[bytes], sha256: str, size: int | None, timeout: float) -> str:
    """Fill the file from this mirror; returns why that failed, or nothing."""
    reason = ""
    for _ in range(TRIES):
        before = file.seek(0, os.SEEK_END)
        try:
            _transfer(url, file, size, timeout)
        except (OSError, HTTPException, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if file.seek(0, os.SEEK_END) > before:
                continue
            return reason
        got = _digest(file)
        if got == sha256:
            return ""
        file.truncate(0)
        reason = f"the content has SHA-256 {got}, expected {sha256}"
        if not before:
            return reason  # and what was put together from two attempts is fetched once more as a whole
    return reason


def _transfer(url: str, file: IO[bytes], size: int | None, timeout: float) -> None:
    """Append to the file what it lacks, or write it anew where the mirror cannot continue."""
    offset = file.seek(0, os.SEEK_END)
    if offset and offset == size:
        return
    headers = {"User-Agent": "geoeq", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        response = urlopen(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        if error.code == 416 and offset:  # nothing after the offset: either the file is whole or it is another one
            return
        raise OSError(f"HTTP status {error.code}") from None
    with response:
        if response.status != 206:
            file.truncate(0)
            offset = 0
        elif not (response.headers.get("Content-Range") or "").startswith(f"bytes {offset}-"):
            raise OSError(f"asked for the bytes from {offset}, got {response.headers.get('Content-Range')}")
        length = response.headers.get("Content-Length", "")
        total = offset + int(length) if length.isdecimal() else size
        if size is not None and total != size:
            raise OSError(f"the file has {total} bytes, expected {size}")
        _append(response, file, offset, total, timeout)


def _append(response: IO[bytes], file: IO[bytes], offset: int, total: int | None, timeout: float) -> None:
    name = Path(str(file.name)).name.removesuffix(".part")
    # disable=None: only on a terminal
    with tqdm(desc=name, initial=offset, total=total, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        received, last, since = offset, offset, time.monotonic()
        while chunk := response.read1(CHUNK):  # type: ignore[attr-defined]
            file.write(chunk)
            bar.update(len(chunk))
            received += len(chunk)
            if total is not None and received > total:
                file.truncate(0)
                raise OSError(f"more than {total} bytes came")
            # A mirror that sends a byte now and then never runs into the timeout of its socket.
            if time.monotonic() - since > timeout:
                if received - last < 1024:
                    raise OSError(f"fewer than 1024 bytes came in {timeout:g} s")
                last, since = received, time.monotonic()
    file.flush()
    if total is not None and received < total:
        raise OSError(f"the connection closed after {received} of {total} bytes")


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
