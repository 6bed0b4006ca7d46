"""Where a run keeps its files: ``runs/<name>/<stamp>/``."""

from __future__ import annotations

import csv
import io
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

__all__ = ["Interrupted", "checkpoint", "new_folder", "remove_empty", "write_csv", "write_text"]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a run.

    Attributes:
        folder: of that run; None before it has one.
    """

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        self.folder = folder


def new_folder(name: str, root: str | Path = "runs") -> Path:
    """Create ``root/name/stamp``; a counter follows the stamp where two runs start in one second.

    Raises:
        ValueError: if the name would lead out of ``root``.
        PermissionError: if the folder cannot be created.
    """
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"name must be the name of a folder inside {root}, got {name!r}")
    base = Path(root) / name / datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        folder = base if attempt == 0 else base.with_name(f"{base.name}-{attempt}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise PermissionError(f"run folder {folder} cannot be created ({error.strerror})") from error
    raise PermissionError(f"run folder {base} cannot be created (too many of that name)")


def remove_empty(folder: Path) -> None:
    """Remove the folder if there is nothing in it."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def checkpoint(which: str, name: str, root: str | Path = "runs") -> Path:
    """Path of a checkpoint: ``best`` or ``last`` of the newest run of that name which has one, or a path itself.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file is not a whole checkpoint.
    """
    if which in ("best", "last"):
        return _whole(_newest(which, name, root))
    path = Path(which)
    if not path.is_file():
        raise FileNotFoundError(f"ckpt_path must be 'best', 'last' or a file, got {which}, which does not exist")
    return _whole(path)


def _newest(which: str, name: str, root: str | Path) -> Path:
    found = sorted((Path(root) / name).glob(f"*/checkpoints/{which}.ckpt"), key=lambda p: p.parts[-3])
    if not found:
        raise FileNotFoundError(f"ckpt_path: no run in {Path(root) / name} has a {which} checkpoint")
    return found[-1]


def _whole(path: Path) -> Path:
    # torch saves zip archives, whose table of contents comes last: a truncated one has none.
    if not zipfile.is_zipfile(path):
        raise ValueError(f"ckpt_path must be a whole checkpoint, got {path}, which is damaged or something else")
    return path


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it, so that it is never seen half-written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV; a missing value becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
