"""What the tests of motion capture share."""

from pathlib import Path

import numpy as np

from geoeq.datasets import MotionCapture
from geoeq.datasets.mocap.protocols import CMU

FRAMES = (141, 138, 165, 143, 137, 126, 148, 128, 130, 152, 128)


def load(root, protocol="run", split="train", **options):
    return MotionCapture(root, protocol, split, log=False, **options)


def arrays(**changes):
    """Trials of the run set in which every joint goes its own way."""
    pick = np.random.default_rng(0)
    trials = {f"trial_{k:02d}": pick.normal(size=(n, 31, 3)).cumsum(0) for k, n in enumerate(FRAMES)}
    return {"edges": np.array(CMU.edges), **trials, **changes}


def write_runs(root: Path) -> str:
    """Put made-up arrays of the run set into a folder."""
    (root / "raw").mkdir(parents=True)
    np.savez(root / "raw" / "subject09_run.npz", **arrays())
    return str(root)
