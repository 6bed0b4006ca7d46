"""Noise on training batches: what is shaken, by how much, and that a resumed run sees the same."""

import pytest
import torch

from geoeq.cli import main
from geoeq.forecast.command import ForecastCLI, quieten
from geoeq.forecast.mocap_data import MotionCaptureData
from geoeq.forecast.pedestrian_data import PedestrianData


def test_half_of_the_training_windows_are_shaken_on_the_ground(streets):
    options = {"scene": "zara1", "past": 4, "future": 3, "shuffle_seed": 0}
    plain, shaken = PedestrianData(streets, **options), PedestrianData(streets, jitter=0.1, **options)
    index = torch.arange(len(plain.split("train")))
    before, after = plain.fetch("train", index), shaken.fetch("train", index)
    moved = (after.history - before.history)[..., :2]
    windows = torch.stack([moved[before.batch == g].abs().amax() > 0 for g in range(before.num_graphs)])
    assert 0 < windows.float().mean() < 1
    assert 0.05 < float(moved[windows[before.batch]].std()) < 0.2
    assert torch.equal(after.pos, after.history[:, -1])
    torch.testing.assert_close(after.vel, (after.history[:, -1] - after.history[:, -2]) / 0.4)
    assert torch.equal(after.history[..., 2], before.history[..., 2])
    assert torch.equal(after.y, before.y)
    assert torch.equal(shaken.fetch("test", torch.arange(1)).pos, plain.fetch("test", torch.arange(1)).pos)
    with pytest.raises(ValueError, match="jitter must be at least 0, got -1"):
        PedestrianData(streets, jitter=-1, **options)


def test_shaken_batches_are_a_function_of_seed_epoch_and_batch(streets):
    options = {"scene": "zara1", "past": 4, "future": 3, "jitter": 0.1}

    def history(epoch, seed=0):
        loader = PedestrianData(streets, shuffle_seed=seed, **options).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [batch.history for batch in loader]

    first, second = history(3), history(3)
    assert len(first) > 1
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    data, index = PedestrianData(streets, **options), torch.arange(20)
    same = data.fetch("train", index).history
    assert torch.equal(data.fetch("train", index).history, same)
    data.epoch = 1
    assert not torch.equal(data.fetch("train", index).history, same)
    assert not torch.equal(PedestrianData(streets, shuffle_seed=1, **options).fetch("train", index).history, same)


@pytest.mark.parametrize("height", [False, True])
def test_half_of_the_runners_are_shaken_as_a_whole(runs, height):
    options = {"protocol": "run", "height": height, "time_unit": 30, "shuffle_seed": 0}
    plain, shaken = MotionCaptureData(runs, **options), MotionCaptureData(runs, jitter=0.1, **options)
    index = torch.arange(200)
    before, after = plain.fetch("train", index), shaken.fetch("train", index)
    moved = (after.pos - before.pos).view(200, 31, 3)
    faster = (after.vel - before.vel).view(200, 31, 3) / 30
    for noise in (moved, moved + faster):  # of the frame, and of the one after it
        torch.testing.assert_close(noise, noise[:, :1].expand_as(noise), rtol=0, atol=1e-4)
        windows = noise[:, 0].abs().amax(1) > 1e-3
        assert 60 < windows.sum() < 140
        assert 0.08 < float(noise[windows].std()) < 0.12
    torch.testing.assert_close(after.x[:, 0], after.vel.norm(dim=1) / 30)
    if height:
        torch.testing.assert_close(after.x[:, 1], after.pos[:, 1] / 10)
    assert torch.equal(after.y, before.y)
    assert torch.equal(shaken.fetch("train", index).pos, after.pos)
    shaken.epoch = 1
    assert not torch.equal(shaken.fetch("train", index).pos, after.pos)
    assert torch.equal(shaken.fetch("test", index).vel, plain.fetch("test", index).vel)
    with pytest.raises(ValueError, match="jitter must be at least 0, got -1"):
        MotionCaptureData(runs, jitter=-1, **options)


def test_a_shaken_training_resumes_to_the_same_weights(streets, tmp_path, monkeypatch, interrupted_at):
    monkeypatch.chdir(tmp_path)
    quieten()
    (tmp_path / "street.yaml").write_text(
        """
name: street
model:
  model:
    class_path: geoeq.layers.TypedMPNN
    init_args: {hidden: 4x0e + 2x1o, n_layers: 1, mode: soft, edge_dim: 0}
data:
  class_path: geoeq.forecast.pedestrian_data.PedestrianData
  init_args: {scene: eth, future: [12], batch_size: 30, jitter: 0.1, log: false}
trainer: {accelerator: cpu, max_epochs: 3, limit_train_batches: 3, limit_val_batches: 1}
"""
    )
    args = ["fit", "--config", "street.yaml", f"--data.root={streets}"]
    straight = ForecastCLI([*args, "--runs=straight"]).model
    with interrupted_at(2, 1):
        assert main([*args, "--runs=broken"]) == 130
    torch.manual_seed(5)  # as a new process would find another state
    resumed = ForecastCLI([*args, "--runs=broken", "--ckpt_path=last"]).model
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
