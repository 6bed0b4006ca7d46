"""What several tests of training need."""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
from helpers.mocap import write_runs
from helpers.molecular import SHORT
from lightning.pytorch import Callback

from geoeq.datasets.molecular import MolecularProtocol
from geoeq.datasets.nbody import Protocol
from geoeq.datasets.pedestrians import dataset as published
from geoeq.forecast.command import ForecastCLI
from geoeq.forecast.datamodule import NBodyData
from geoeq.forecast.large_nbody_data import LargeNBodyData
from geoeq.forecast.mocap_data import MotionCaptureData
from geoeq.forecast.molecular_data import MolecularData
from geoeq.forecast.pedestrian_data import PedestrianData


class _Stop(Callback):
    def __init__(self, epoch: int, batch: int) -> None:
        self.place = (epoch, batch)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.place:
            raise KeyboardInterrupt


@pytest.fixture
def interrupted_at(monkeypatch) -> Callable[[int, int], AbstractContextManager[None]]:
    """Inside ``with interrupted_at(epoch, batch)`` every training gets Ctrl-C before that batch."""
    whole = ForecastCLI.instantiate_trainer

    @contextmanager
    def inside(epoch: int, batch: int) -> Iterator[None]:
        def stopping(self, **kwargs):
            trainer = whole(self, **kwargs)
            trainer.callbacks.insert(0, _Stop(epoch, batch))
            return trainer

        handler = signal.getsignal(signal.SIGINT)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(ForecastCLI, "instantiate_trainer", stopping)
                yield
        finally:  # Lightning ignores further Ctrl-C, and child processes of later tests would inherit that
            signal.signal(signal.SIGINT, handler)

    return inside


@pytest.fixture
def runs(tmp_path):
    """A folder with a made-up running set."""
    return write_runs(tmp_path / "mocap")


@pytest.fixture
def streets(tmp_path, monkeypatch):
    """A folder with small recordings in place of the published ones, which are not asked for their checksums."""
    raw = tmp_path / "pedestrians" / "raw"
    raw.mkdir(parents=True)
    for name in published.RECORDINGS:
        rows = [f"{10 * t} {k} {0.1 * (k + 1) * t} {5.0 * k}" for k in range(4) for t in range(2 * k, 120)]
        (raw / f"{name}.txt").write_text("\n".join(rows))
    monkeypatch.setattr(published, "_published", lambda root, name: raw / f"{name}.txt")
    return str(raw.parent)


@pytest.fixture
def molecule(tmp_path):
    """A file with a simulation of ethanol's heavy atoms and three hydrogens."""
    place = [[0, -0.6, 0], [-1.3, 0.2, 0], [1.1, 0.3, 0], [0, -1.2, 0.9], [0, -1.2, -0.9], [1.9, -0.2, 0]]
    walk = 1e-3 * np.random.default_rng(0).normal(size=(120, 6, 3)).cumsum(0)
    np.savez(tmp_path / "ethanol.npz", R=np.array(place) + walk, z=np.array([6, 6, 8, 1, 1, 1]))
    return str(tmp_path / "ethanol.npz")


@pytest.fixture
def module(tmp_path, runs, streets, molecule):
    """Data modules by name, all of one target frame."""
    small = {"frames": [0, 2], "sizes": [12, 6, 6], "log": False}
    return {
        "charged": lambda: NBodyData(str(tmp_path), **small),
        "springs": lambda: NBodyData(str(tmp_path), system="springs", **small),
        "constrained": lambda: NBodyData(str(tmp_path), objects=[1, 1, 1], **small),
        "large": lambda: LargeNBodyData(str(tmp_path), protocol=Protocol("gravity", 20, every=10), **small),
        "mocap": lambda: MotionCaptureData(runs, log=False),
        "pedestrians": lambda: PedestrianData(streets, scene="eth", future=[12], log=False),
        "molecular": lambda: MolecularData(
            molecule, protocol=MolecularProtocol(3, (4,), 1, True, 2, "time", (9, 5, 5))
        ),
        "radius": lambda: MolecularData(molecule, protocol=SHORT, radius=2.0),
    }
