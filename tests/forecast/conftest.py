"""What several tests of training need."""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from lightning.pytorch import Callback

from geoeq.forecast.command import ForecastCLI


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
