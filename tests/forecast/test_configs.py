"""The shipped configurations train: a step or two each, on the real recordings where they are, else on made-up ones."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.mocap import write_runs

from geoeq.cli import main
from geoeq.datasets.mocap.protocols import CMU
from geoeq.datasets.pedestrians import dataset as published
from geoeq.forecast.command import ForecastCLI, names_data, quieten
from geoeq.forecast.runs import checkpoint
from geoeq.groups import parse

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
SHORT += ["--trainer.limit_test_batches=2", "--data.eval_batch_size=15"]
SMALL = ["--data.sizes=[40,30,30]", "--data.batch_size=20"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GEOEQ_DATA", raising=False)
    quieten()
    return tmp_path


def train_and_test(name, *options, test=True):
    """The numbers of the training and of the test of a shipped configuration."""
    args = ["--config", f"configs/{name}.yaml", *SHORT, *options]
    cli = ForecastCLI(["fit", *(arg if "configs/" not in arg else str(ROOT / arg) for arg in args)])
    with (cli.folder / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert all(np.isfinite(float(row[key])) for key in row if key != "epoch")
    assert set(cli.model.groups) == set(
        yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())["model"]["symmetries"]
    )
    if test:
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    return row, {key: float(value) for key, value in cli.trainer.callback_metrics.items()}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_says_what_it_is_and_names_its_run(path):
    text = path.read_text()
    assert text.startswith("# ")
    config = yaml.safe_load(text)
    assert config["name"] == path.stem
    assert config["trainer"]["accelerator"] == "cpu"
    for group in config["model"]["symmetries"].values():
        parse(group)
    assert "subject" not in text or "mocap.cs.cmu.edu" in text
    if names_data([f"--config={path}"]):
        assert "--data.root" in text or "--data.path" in text


@pytest.mark.parametrize("name", ["springs", "gravity", "constrained"])
def test_bodies(folder, name):
    row, numbers = train_and_test(name, *SMALL)
    assert float(row["val_fde"]) > 0
    assert {"test_mse", "test_fde", "test_momentum_drift", "test_true_momentum_drift"} <= set(numbers)
    assert numbers["test_true_momentum_drift"] < 1e-3 < numbers["test_momentum_drift"]


@pytest.mark.parametrize("name", ["springs", "gravity", "constrained"])
def test_bodies_at_several_frames(folder, name):
    frames = ["--data.frames=[30,32,34,36,38,40]", "--model.model.init_args.n_frames=5"]
    row, numbers = train_and_test(name, *SMALL, *frames)
    assert float(row["val_ade"]) > 0
    assert numbers["test_a_mse"] == pytest.approx(numbers["test_mse"])
    assert {"test_ade", "test_fde", "test_f_mse", "test_energy_drift", "test_true_energy_drift"} <= set(numbers)
    assert numbers["test_true_energy_drift"] < numbers["test_energy_drift"]


@pytest.fixture
def runs(folder):
    """Made-up arrays of the running set."""
    write_runs(folder / "mocap")
    return "--data.root=mocap"


def test_running(runs):
    row, numbers = train_and_test("mocap_run", runs)
    assert float(row["val_fde"]) > 0
    assert {"error/translation", "error/mirror", "test_fde"} <= set(numbers)
    more = ["--data.height=false", "--model.model.init_args.node_dim=1"]
    several = ["--data.future=[10,20,30]", "--model.model.init_args.n_frames=3"]
    assert "test_ade" in train_and_test("mocap_run", runs, *more, *several)[1]


def test_walking(folder):
    (folder / "mocap" / "raw").mkdir(parents=True)
    pick = np.random.default_rng(0)
    trials = {f"trial_{k:02d}": pick.normal(size=(340, 31, 3)).cumsum(0) for k in range(23)}
    np.savez(folder / "mocap" / "raw" / "subject35_walk.npz", edges=np.array(CMU.edges), **trials)
    assert "test_fde" in train_and_test("mocap_walk", "--data.root=mocap")[1]


def test_real_runs(folder, shared_data):
    (folder / "data" / "mocap" / "raw").mkdir(parents=True)
    shutil.copy(shared_data / "cmu-mocap" / "subject09_run.npz", folder / "data" / "mocap" / "raw")
    _, numbers = train_and_test("mocap_run")
    assert 1 < numbers["test_fde"] < 50  # 16.0 for who stands still


def test_real_pedestrians(folder, shared_data):
    shutil.copytree(shared_data / "eth-ucy", folder / "data" / "pedestrians" / "raw")
    row, numbers = train_and_test("pedestrians", "--data.scene=zara2")
    assert float(row["val_ade"]) < float(row["val_fde"])
    assert 0.1 < numbers["test_ade"] < numbers["test_fde"] < 20


def test_pedestrians(folder, monkeypatch):
    def street(root, name):
        path = Path(root, "raw", f"{name}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [f"{10 * t} {k} {0.1 * (k + 1) * t} {k}" for k in range(4) for t in range(2 * k, 120)]
        path.write_text("\n".join(rows))
        return path

    monkeypatch.setattr(published, "_published", street)
    _, numbers = train_and_test("pedestrians", "--data.root=streets", "--data.scene=eth")
    assert {"test_ade", "test_fde", "test_a_mse", "test_f_mse", "error/shifts"} <= set(numbers)


@pytest.fixture
def molecule(folder):
    place = [[0, -0.6, 0], [-1.3, 0.2, 0], [1.1, 0.3, 0], [0, -1.2, 0.9]]
    walk = 1e-3 * np.random.default_rng(0).normal(size=(22000, 4, 3)).cumsum(0)
    np.savez(folder / "molecule.npz", R=np.array(place) + walk, z=np.array([6, 6, 8, 1]))
    return "--data.path=molecule.npz"


def test_molecules(molecule):
    assert "test_fde" in train_and_test("md17", molecule, *SMALL)[1]
    geotdm = ["--data.protocol=geotdm", "--model.model.init_args.history=10", "--model.model.init_args.n_frames=20"]
    assert "test_ade" in train_and_test("md17", molecule, *SMALL, *geotdm)[1]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mocap_run", "data/mocap/raw must hold subject09_run.npz, or 09.asf"),
        ("mocap_walk", "data/mocap/raw must hold subject35_walk.npz, or 35.asf"),
        ("md17", "data/md17/md17_aspirin.npz does not exist; MD17 is at quantum-machine.org"),
    ],
)
def test_missing_files_are_one_line_and_exit_code_2(folder, capsys, name, told):
    assert main(["fit", "--config", f"configs/{name}.yaml"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("geoeq: error:")]
    assert told in line
    assert "--data." in line


def test_a_class_of_data_keeps_its_own_defaults(folder, capsys):
    assert main(["fit", "--config", "configs/pedestrians.yaml", "--print_config"]) == 0
    init = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    assert init["root"] is None  # not the folder of the N-body data, which are the default
    assert init["eval_batch_size"] == 100
    assert main(["fit", "--data=geoeq.forecast.mocap_data.MotionCaptureData", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["batch_size"] == 12


@pytest.mark.parametrize(
    ("args", "text", "expected"),
    [
        (["--data.class_path", "x.Y"], "", True),
        (["--data=x.Y"], "", True),
        (["--config=own.yaml"], "data: {class_path: x.Y}", True),
        (["-c", "own.yaml"], "data: x.Y", True),
        (["--config", "own.yaml"], "data: {field: 2.0}", False),
        (["--config", "own.yaml"], "data: [", False),
        (["--config", "own.yaml"], "- data", False),
        (["--config", "nowhere.yaml"], "", False),
        (["--data.root=x"], "", False),
    ],
)
def test_whether_a_class_of_data_is_named(folder, args, text, expected):
    (folder / "own.yaml").write_text(text)
    assert names_data(["fit", *args]) == expected


def test_a_network_with_too_few_frames_is_told_so(folder, capsys):
    frames = "--data.frames=[30,35,40]"
    assert main(["fit", "--config", "configs/springs.yaml", *SHORT, *SMALL, frames]) == 2
    assert "model must predict [75, 2, 3], as y has it, got [75, 3]" in capsys.readouterr().err


def test_predictions_of_paths(folder):
    args = ["--config", str(ROOT / "configs/gravity.yaml"), *SMALL, "--data.frames=[0,1,2]"]
    args += ["--model.model.init_args.n_frames=2", "--model.model.init_args.n_layers=1"]
    ForecastCLI(["fit", *args, *SHORT])
    ForecastCLI(["predict", *args])
    run = checkpoint("best", "gravity").parent.parent
    with np.load(run / "predictions.npz") as arrays:
        assert arrays["predicted"].shape == arrays["target"].shape == (300, 2, 3)


class Sampler(torch.nn.Module):
    """Draws futures around the straight line."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, data):
        return data.pos.unsqueeze(1) + self.scale * 0.1 * torch.arange(1, 3)[:, None] * data.vel.unsqueeze(1)

    def sample(self, data, n):
        return self(data) + 0.05 * torch.randn(n, len(data.pos), 2, 3)


def test_networks_that_sample_are_measured_by_their_best(folder):
    from lightning.pytorch import Trainer

    from geoeq.forecast.datamodule import NBodyData
    from geoeq.forecast.module import ForecastModule

    data = NBodyData("data", frames=[0, 1, 2], sizes=[20, 10, 10], batch_size=10, log=False)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    (numbers,) = trainer.test(ForecastModule(Sampler(), n_samples=6), data, verbose=False)
    names = {f"test_{kind}_{end}_6" for kind in ("min", "joint_min") for end in ("ade", "fde")}
    assert names <= set(numbers)
    assert numbers["test_min_ade_6"] < numbers["test_joint_min_ade_6"]
    with pytest.raises(ValueError, match="n_samples must be at least 1, got 0"):
        ForecastModule(Sampler(), n_samples=0)
