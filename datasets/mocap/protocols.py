"""The published forecasting protocols on recordings of two subjects of CMU's database."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geoeq.datasets.mocap.skeleton import Skeleton

SPLITS = ("train", "valid", "test")

CMU = Skeleton(
    (
        *("root", "lhipjoint", "lfemur", "ltibia", "lfoot", "ltoes", "rhipjoint", "rfemur", "rtibia", "rfoot", "rtoes"),
        *("lowerback", "upperback", "thorax", "lowerneck", "upperneck", "head"),
        *("lclavicle", "lhumerus", "lradius", "lwrist", "lhand", "lfingers", "lthumb"),
        *("rclavicle", "rhumerus", "rradius", "rwrist", "rhand", "rfingers", "rthumb"),
    ),
    (
        *(-1, 0, 1, 2, 3, 4, 0, 6, 7, 8, 9),
        *(0, 11, 12, 13, 14, 15),
        *(13, 17, 18, 19, 20, 21, 20),
        *(13, 24, 25, 26, 27, 28, 27),
    ),
)


@dataclass(frozen=True)
class MotionProtocol:
    """Which trials are for what, and which of their frames are inputs.

    Args:
        subject: number in the database.
        trials: trials of each split, in the order in which their frames are drawn; numbers of the published arrays.
        first_frames: inputs are among so many frames of a trial.
        draws: so many are drawn from each trial.
        sizes: of train, valid and test, shared equally by the trials of the split; more is asked than exists for "run".
        files: numbers of the motion files.
        starts: position of the root at the first frame of each trial and number of frames, where the published order of
            the trials is known, else none: then it is the order of the files.
    """

    subject: int
    trials: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    first_frames: int
    draws: int
    sizes: tuple[int, int, int]
    files: tuple[int, ...]
    starts: tuple[tuple[float, float, float, int], ...] = ()

    @property
    def n_trials(self) -> int:
        return sum(len(trials) for trials in self.trials)

    def inputs(self, split: str, size: int | None = None) -> dict[int, np.ndarray]:
        """Input frames of each trial of a split.

        They are the first of those drawn with seed 100 without replacement, trial after trial, all three splits in one
        stream; so they equal the published ones.

        Args:
            split: one of SPLITS.
            size: of the split, shared equally by its trials and rounded down; None for the published.

        Returns:
            Trial to [S] frames; S is at most ``draws``.
        """
        # The published frames come from this generator; another one would draw other frames.
        random = np.random.RandomState(100)
        drawn = [
            {trial: random.choice(np.arange(self.first_frames), self.draws, replace=False) for trial in trials}
            for trials in self.trials
        ]
        index = SPLITS.index(split)
        each = (self.sizes[index] if size is None else size) // len(self.trials[index])
        return {trial: frames[:each] for trial, frames in drawn[index].items()}


PROTOCOLS = {
    "run": MotionProtocol(
        subject=9,
        trials=((1, 2, 5, 6, 10), (0, 4, 9), (3, 7, 8)),
        first_frames=90,
        draws=80,
        sizes=(200, 600, 600),
        files=tuple(range(1, 12)),
        starts=(
            (0.0917792, 17.1113, -36.2281, 141),
            (1.92817, 18.4484, -23.8615, 138),
            (1.30779, 18.31, -31.1539, 165),
            (-0.75525, 17.4139, -27.769, 143),
            (0.0153558, 18.0056, -30.6689, 137),
            (0.60116, 18.7379, -27.374, 126),
            (-0.307087, 17.6356, -28.2214, 148),
            (0.555215, 17.1131, -23.0715, 128),
            (0.0501492, 17.0635, -27.6745, 130),
            (0.0698197, 17.1484, -28.7254, 152),
            (-0.334871, 17.1947, -24.8418, 128),
        ),
    ),
    "walk": MotionProtocol(
        subject=35,
        trials=(
            (20, 1, 17, 13, 14, 9, 4, 2, 7, 5, 16),
            (3, 8, 11, 12, 15, 18),
            (6, 19, 21, 0, 22, 10),
        ),
        first_frames=300,
        draws=100,
        sizes=(200, 600, 600),
        files=(*range(1, 17), *range(28, 35)),
    ),
}
