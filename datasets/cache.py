"""A file of tensors that is either whole and unaltered or refused."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import uuid
from pathlib import Path

import torch
from torch import Tensor

FORMAT = 1  # raise it whenever the simulator or the layout of the file changes: old files are then not found


def save_tensors(path: str | Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors with their checksum under a temporary name, then rename: no reader sees half a file.

    Raises:
        OSError: if the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:  # which tells why it cannot be written; torch.save does not
            try:
                torch.save({"format": FORMAT, "checksum": _checksum(tensors), "tensors": tensors}, file)
            except RuntimeError as error:
                raise OSError(f"{path} could not be written whole") from error
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read what :func:`save_tensors` wrote.

    Raises:
        ValueError: one line if the file is truncated, altered or of another kind.
    """
    try:
        stored = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from error
    try:
        content = torch.load(io.BytesIO(stored), weights_only=True)
        whole = content["format"] == FORMAT and content["checksum"] == _checksum(content["tensors"])
    except Exception:  # torch.load has no common class for the ways in which a file can be damaged
        whole = False
    if not whole:
        raise ValueError(f"{path} is truncated or altered: delete it and it will be generated again")
    return content["tensors"]


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
