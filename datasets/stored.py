"""Data sets that are made once and kept in one file."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from abc import abstractmethod
from pathlib import Path
from typing import Any

from torch import Tensor

from geoeq.datasets.cache import FORMAT, load_tensors, save_tensors
from geoeq.datasets.held import HeldGraphs, Parts
from geoeq.datasets.pre_transform import described


def stored_name(label: str, settings: dict[str, Any]) -> str:
    """Name of the file that holds what was made with these settings."""
    # default=int: numbers of NumPy are integers that JSON does not know
    text = json.dumps(settings | {"format": FORMAT}, sort_keys=True, default=int)
    return f"{label}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.pt"


class Stored(HeldGraphs):
    """Base of data sets whose tensors are made on first use and stored under ``root/processed``.

    It stands before the class that holds them: ``class NBody(Stored, EqualGraphs)``. A subclass says what the numbers
    depend on (:meth:`_settings`), what the file is called (:meth:`_label`), how its tensors are made (:meth:`_make`)
    and in which parts they are held (:meth:`_split`), and calls :meth:`_load` at the end of its ``__init__``. The
    file's name carries a hash of the settings, so that other settings never find it, and it is there whole or not at
    all.
    """

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Everything that the stored numbers depend on, as JSON values."""

    @abstractmethod
    def _label(self) -> str:
        """Start of the file's name."""

    @abstractmethod
    def _make(self) -> dict[str, Tensor]:
        """The tensors to store, before any ``pre_transform``."""

    @abstractmethod
    def _split(self, made: dict[str, Tensor]) -> Parts:
        """What :meth:`_make` gave, in the two parts that are held."""

    def _load(self) -> None:
        """Take over the stored tensors."""
        stored = load_tensors(self.processed_paths[0])
        self._take(*(self._split(stored) if self.pre_transform is None else self._restored(stored)))

    @property
    def processed_file_names(self) -> str:
        settings = self._settings()
        if self.pre_transform is not None:
            settings = settings | {"pre_transform": described(self.pre_transform)}
        return stored_name(self._label(), settings)

    def _process(self) -> None:
        # In place of the base class's method, which also writes two marker files that a kill could truncate.
        if self.force_reload or not Path(self.processed_paths[0]).exists():
            self.process()

    def process(self) -> None:
        """Make the tensors and store them; an interrupted call leaves nothing that would be loaded."""
        path = Path(self.processed_paths[0])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            start = time.perf_counter()
            made = self._make()
            if self.pre_transform is not None:
                made = self._transformed(*self._split(made))
            save_tensors(path, made)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ValueError(f"root {self.root} cannot be written ({error.strerror or error})") from error
        if self.log:
            seconds = time.perf_counter() - start
            what = f"{self._label()} ({self.split})" if hasattr(self, "split") else self._label()
            print(f"{type(self).__name__}: made {what} in {seconds:.1f} s, stored in {self.root}", file=sys.stderr)
