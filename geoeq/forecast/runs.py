"""Where a run keeps its files: ``runs/<name>/<stamp>/``."""

from __future__ import annotations

import csv
import io
import os
import re
import signal
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

__all__ = [
    "Interrupted",
    "checkpoint",
    "config_number",
    "new_folder",
    "newest_config",
    "remove_empty",
    "write_csv",
    "write_text",
]

KEYS = ("state_dict", "pytorch-lightning_version")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM in a run.

    Attributes:
        folder: of that run; None before it has one.
        number: of the signal.
    """

    def __init__(self, folder: Path | None = None, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.folder, self.number = folder, number


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


def checkpoint(which: str, name: str, root: str | Path = "runs", *, weights_only: bool | None = None) -> Path:
    """Path of a checkpoint: ``best`` or ``last`` of the newest run of that name which has one, or a path itself.

    It is read once to see that it can be; ``weights_only`` is that of ``torch.load``.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file is not a whole checkpoint.
    """
    if which in ("best", "last"):
        return _whole(_newest(which, name, root), weights_only)
    path = Path(which)
    if not path.is_file():
        raise FileNotFoundError(f"ckpt_path must be 'best', 'last' or a file, got {which}, which does not exist")
    return _whole(path, weights_only)


def config_number(path: Path) -> int:
    """Which configuration of its run a file is: 1 for ``config.yaml``, 2 for ``config-2.yaml``, 0 for none."""
    found = re.fullmatch(r"config(?:-(\d+))?\.yaml", path.name)
    return int(found[1] or 1) if found else 0


def newest_config(folder: Path) -> Path | None:
    """The configuration that a run was last started or continued with; None if there is none."""
    return max(filter(config_number, folder.glob("config*.yaml")), key=config_number, default=None)


def _newest(which: str, name: str, root: str | Path) -> Path:
    found = (Path(root) / name).glob(f"*/checkpoints/{which}.ckpt")
    newest = max(found, key=lambda path: _natural(path.parts[-3]), default=None)
    if newest is None:
        raise FileNotFoundError(f"ckpt_path: no run in {Path(root) / name} has a {which} checkpoint")
    return newest


def _natural(text: str) -> list[str | int]:
    """Key of an order in which numbers count as such, so that ``-10`` comes after ``-2``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def _whole(path: Path, weights_only: bool | None) -> Path:
    import torch  # here, since the command line without a command shall answer at once

    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch does not look at the check sums
                raise zipfile.BadZipFile
        held = torch.load(path, map_location="cpu", weights_only=weights_only)
    except Exception as error:  # bytes of any kind can raise anything where they are unpickled
        raise ValueError(f"ckpt_path must be a whole checkpoint, got {path}, damaged or something else") from error
    if missing := [key for key in KEYS if not isinstance(held, dict) or key not in held]:
        raise ValueError(f"ckpt_path must be a checkpoint of geoeq fit, got {path}, which has no {missing[0]}")
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
