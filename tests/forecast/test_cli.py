"""The command as a user meets it: exit codes of real processes, and what is wrong told in one line."""

import csv
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from geoeq.cli import main
from geoeq.forecast.command import ForecastCLI, quieten
from geoeq.forecast.runs import checkpoint, new_folder

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
name: tiny
model:
  model:
    class_path: geoeq.layers.TypedMPNN
    init_args: {hidden: 4x0e + 2x1o, n_layers: 1, mode: soft}
  symmetries: {rotation: O(3)}
data: {field: 4.0, frames: [0, 2], sizes: [20, 10, 10], batch_size: 10}
trainer: {accelerator: cpu, max_epochs: 1}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    quieten()
    return tmp_path


def start(*args: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "geoeq.cli", *args],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # what is started in the background of a shell ignores Ctrl-C, and so would its children
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return [row | {"seconds": ""} for row in csv.DictReader(file)]


def errors(capsys) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("geoeq: error:")]


def test_interrupt_from_the_keyboard_keeps_the_run_and_exits_with_130(folder):
    process = start("fit", "--config", "tiny.yaml", "--trainer.max_epochs=100000")
    try:
        deadline = time.monotonic() + 60
        while not list(folder.rglob("last.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, told
    assert "--ckpt_path" in told
    assert "Traceback" not in told
    run = checkpoint("last", "tiny").parent.parent
    assert {"config.yaml", "metrics.csv", "report.html"} <= {path.name for path in run.iterdir()}


def test_an_unknown_option_is_one_line_and_exit_code_2(folder):
    process = start("fit", "--config", "tiny.yaml", "--data.fields=1")
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert told.splitlines() == ["geoeq: error: data: NBodyData: Option 'fields' is not accepted"]


def test_a_run_in_double_precision_can_be_tested(folder):
    assert main(["fit", "--config", "tiny.yaml", "--trainer.precision=64-true"]) == 0
    path = checkpoint("best", "tiny")
    assert torch.load(path, weights_only=True)["state_dict"]["model.embed.weight"].dtype == torch.float64
    assert main(["test", "--config", "tiny.yaml", "--ckpt_path=best", "--trainer.precision=64-true"]) == 0


def test_a_checkpoint_of_another_network_is_refused(folder, capsys):
    assert main(["fit", "--config", "tiny.yaml"]) == 0
    other = "--model.model.init_args.hidden=6x0e + 2x1o"
    assert main(["test", "--config", "tiny.yaml", "--ckpt_path=last", other]) == 2
    (told,) = errors(capsys)
    assert "ckpt_path must hold the configured network" in told


def test_a_truncated_checkpoint_is_refused(folder, capsys):
    assert main(["fit", "--config", "tiny.yaml"]) == 0
    path = checkpoint("last", "tiny")
    path.write_bytes(path.read_bytes()[:-100])
    assert main(["fit", "--config", "tiny.yaml", "--ckpt_path=last"]) == 2
    (told,) = errors(capsys)
    assert "ckpt_path must be a whole checkpoint" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.lr=1e30"], "train_loss must stay finite"),
        (["--model.cosine=true", "--trainer.max_epochs=-1"], "cosine must be false"),
        (["--name=../elsewhere"], "name must be"),
        (["--ckpt_path=tiny.yaml"], "ckpt_path must be a whole checkpoint"),
        (["--trainer.devices=0"], "devices"),
        (["--trainer.enable_checkpointing=false"], "enable_checkpointing"),
    ],
)
def test_what_cannot_be_trained_is_told_in_one_line(folder, capsys, options, message):
    assert main(["fit", "--config", "tiny.yaml", *options]) == 2
    (told,) = errors(capsys)
    assert message in told


def test_every_shipped_configuration_is_a_valid_one(folder, capsys):
    names = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))
    assert {"nbody.yaml", "nbody_egnn.yaml"} <= set(names)
    for name in names:
        assert main(["fit", "--config", f"configs/{name}", "--print_config"]) == 0
    assert "geoeq.layers.EGNN" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "..", "a/../../b", "/tmp"])
def test_a_run_stays_inside_its_folder(tmp_path, name):
    with pytest.raises(ValueError, match="name must be"):
        new_folder(name, tmp_path)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_an_untrained_network_is_never_evaluated(folder, capsys, command):
    assert main([command, "--config", "tiny.yaml"]) == 2
    (told,) = errors(capsys)
    assert "no run in runs/tiny has a best checkpoint" in told


def test_a_wrong_seed_is_told_with_its_option(folder, capsys):
    assert main(["compare", "--config", "tiny.yaml", "--seeds", "x"]) == 2
    (told,) = errors(capsys)
    assert "--seeds: invalid int value: 'x'" in told


def test_the_last_checkpoint_is_of_the_last_epoch_even_where_another_was_best(folder):
    worse = ["--model.lr=0.3", "--trainer.max_epochs=4", "--model.model.init_args.mode=free"]
    run = ForecastCLI(["fit", "--config", "tiny.yaml", *worse]).folder / "checkpoints"
    epochs = {name: torch.load(run / f"{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last")}
    assert epochs["best"] < epochs["last"] == 3


def test_a_run_with_few_validations_resumes_to_the_same_tables(folder, interrupted_at):
    args = ["fit", "--config", "tiny.yaml", "--trainer.max_epochs=4", "--trainer.check_val_every_n_epoch=4"]
    straight = ForecastCLI([*args, "--runs=straight"]).folder
    with interrupted_at(2, 0):
        assert main([*args, "--runs=broken"]) == 130
    resumed = ForecastCLI([*args, "--runs=broken", "--ckpt_path=last"]).folder
    losses = [row["val_loss"] for row in rows(straight / "metrics.csv")]
    assert losses[:3] == ["", "", ""]  # no value of another epoch stands in
    assert losses[3]
    for table in ("metrics.csv", "levels.csv"):
        assert rows(straight / table) == rows(resumed / table)
