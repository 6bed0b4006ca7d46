"""Which frames of a simulation are inputs and targets: the published protocols, and one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from geoeq.datasets.checks import require, require_choice, require_count

SPLITS = ("train", "valid", "test")
RANDOM_SHARES = (0.1, 0.05, 0.05)  # of the frames, drawn for train, valid and test
TIME_SHARES = (0.6, 0.2, 0.2)  # of the simulation, one after the other


@dataclass(frozen=True)
class MolecularProtocol:
    """Forecasting of molecular motion.

    Args:
        past: number of frames given. With one the velocity is the difference to the frame after it, as published; with
            more it is the difference to the frame before.
        future: how many frames after the last given one the targets are, rising.
        every: only every so many frames of the file are used; ``past`` and ``future`` count these.
        hydrogen: whether hydrogen atoms are nodes too.
        hops: atoms joined by a path of so many bonds, or fewer, are joined by an edge.
        split: ``"random"`` draws the inputs of train, valid and test from the whole simulation, so that frames of one
            split lie between those of another, close in time; ``"time"`` takes the first 60 % of the simulation for
            training, then 20 % and 20 %, and no window crosses a border.
        sizes: of train, valid and test at most; None for all. With ``"time"`` windows are spread evenly.
        margin: with ``"random"``, no input is among so many frames at either end.

    Raises:
        ValueError: one line for a wrong argument.
    """

    past: int = 1
    future: Sequence[int] = (3000,)
    every: int = 1
    hydrogen: bool = False
    hops: int = 2
    split: str = "random"
    sizes: Sequence[int | None] = (500, 2000, 2000)
    margin: int = 10000

    def __post_init__(self) -> None:
        for name, least in (("past", 1), ("every", 1), ("hops", 1), ("margin", 0)):
            require_count(name, getattr(self, name), least)
        require(isinstance(self.future, Sequence), "future", "rising numbers of frames from 1", self.future)
        for step in self.future:
            require_count("future", step, 1)
        rising = len(self.future) > 0 and all(a < b for a, b in pairwise(self.future))
        require(rising, "future", "rising numbers of frames from 1", self.future)
        ahead = self.past > 1 or self.future[0] > 1
        require(ahead, "future", "2 or more with past=1, whose velocity looks one frame ahead", self.future)
        require_choice("split", self.split, ("random", "time"))
        three = isinstance(self.sizes, Sequence) and len(self.sizes) == 3
        require(three, "sizes", "three numbers or None", self.sizes)
        for size in self.sizes:
            if size is not None:
                require_count("sizes", size, 1)
        if self.split == "random":
            inside = self.margin >= self.future[-1]
            require(inside, "margin", f"at least the last future frame, {self.future[-1]}", self.margin)

    @property
    def span(self) -> int:
        """Frames of a window, from its first input to its last target."""
        return self.past + self.future[-1]

    def starts(self, n_frames: int, split: str, seed: int = 100) -> np.ndarray:
        """First frames of the windows of a split, [S] int64, counted in frames that are ``every`` apart.

        The last frame of the file is not used: it has no velocity. ``"random"`` draws as the published code does, and
        with seed 100 it gives the published inputs of MD17.

        Args:
            n_frames: number of frames in the file.
            split: ``"train"``, ``"valid"`` or ``"test"``.
            seed: of the random draw.

        Raises:
            ValueError: if the simulation is too short.

        Example:
            >>> PROTOCOLS["gmn"].starts(211762, "train")[:3].tolist()  # aspirin
            [78845, 12943, 13421]
            >>> MolecularProtocol(2, (3,), split="time", sizes=(3, 3, 3)).starts(51, "valid").tolist()
            [30, 32, 34]
        """
        number = SPLITS.index(split)
        usable = -(-(n_frames - 1) // self.every)
        if self.split == "random":
            return self._drawn(usable, number, seed)
        first = int(usable * sum(TIME_SHARES[:number]))
        count = int(usable * sum(TIME_SHARES[: number + 1])) - first - self.span + 1
        require(count >= 1, f"frames of the {split} split", f"at least {self.span}", max(count + self.span - 1, 0))
        size = min(self.sizes[number] or count, count)
        return first + np.arange(size) * (count // size)

    def _drawn(self, usable: int, number: int, seed: int) -> np.ndarray:
        inner = usable - 2 * self.margin - (self.past - 1)
        least = 2 * self.margin + self.past - 1 + 20  # 20 frames give one to each split
        require(inner >= 20, "frames", f"at least {least + 1} for this protocol", usable + 1)
        # The published code draws with the legacy generator, whose stream is fixed for good.
        generator = np.random.RandomState(seed)
        rest = np.arange(inner)
        for share in RANDOM_SHARES[: number + 1]:
            order = generator.permutation(len(rest))
            drawn = np.sort(order[: int(share * inner)])
            chosen = rest[order[: int(share * inner)]]
            rest = np.delete(rest, drawn)
        size = self.sizes[number] or len(chosen)
        require(size <= len(chosen), "sizes", f"at most {len(chosen)} for {SPLITS[number]} of {inner} frames", size)
        return chosen[:size] + self.margin


PROTOCOLS = {
    # arXiv 2203.06442: one frame and its velocity, 3000 frames on, without hydrogen
    "gmn": MolecularProtocol(),
    # arXiv 2410.13027: every tenth frame, 10 given, the next 20 to be forecast
    "geotdm": MolecularProtocol(10, tuple(range(1, 21)), 10, True, 3, "time", (5000, 1000, 1000)),
    # arXiv 2202.10643 on proteins: 15 frames on, the simulation cut in three
    "protein": MolecularProtocol(1, (15,), 1, True, 1, "time", (None, None, None)),
}
