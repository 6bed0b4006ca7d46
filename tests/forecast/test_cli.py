"""The command as a user meets it: exit codes of real processes, and what is wrong told in one line."""

import csv
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

from geoeq.cli import main
from geoeq.forecast.command import ForecastCLI, quieten
from geoeq.forecast.recorder import Recorder
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
OWN = """
from geoeq.forecast.datamodule import NBodyData


class Own(NBodyData):
    def __init__(self, batch_size: int = 10) -> None:
        super().__init__(batch_size=batch_size, frames=[0, 2], sizes=[20, 10, 10])
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GEOEQ_DATA", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    quieten()
    return tmp_path


def start(*args: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "geoeq", *args],
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


@pytest.mark.parametrize(
    ("signals", "code"), [([signal.SIGINT], 130), ([signal.SIGTERM], 143), ([signal.SIGTERM] * 2, 143)]
)
def test_a_signal_keeps_the_run_and_is_told_by_the_exit_code(folder, signals, code):
    process = start("fit", "--config", "tiny.yaml", "--trainer.max_epochs=100000")
    try:
        deadline = time.monotonic() + 60
        while not list(folder.rglob("last.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.05)
        for number in signals:
            process.send_signal(number)
        told = process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code, told
    assert "Traceback" not in told
    last = checkpoint("last", "tiny").relative_to(".")
    hint = f"geoeq fit --config tiny.yaml --trainer.max_epochs=100000 --ckpt_path={last}"
    assert told.endswith(f"geoeq: interrupted; go on with: {hint}\n")
    assert {"config.yaml", "metrics.csv", "report.html"} <= {path.name for path in last.parent.parent.iterdir()}


def test_sigterm_before_the_first_checkpoint_is_told_too(folder):
    process = start("fit", "--config", "tiny.yaml", "--data.sizes=[20000,10,10]")
    try:
        deadline = time.monotonic() + 60
        while not list(folder.glob("runs/tiny/*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 143, told
    assert told.endswith("geoeq: interrupted; nothing saved yet\n")
    assert not list(folder.glob("runs/tiny/*"))


def test_sigterm_that_lightning_alone_hears_of_is_no_success(folder, monkeypatch):
    def hear(recorder, trainer, *_):
        trainer._signal_connector.received_sigterm = True

    monkeypatch.setattr(Recorder, "on_train_batch_start", hear)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["fit", "--config", "tiny.yaml"]) == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_commands_run_in_another_thread(folder):
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(main, ["fit", "--config", "tiny.yaml", "--print_config"]).result() == 0


def test_a_class_of_data_in_the_working_directory_is_found(folder):
    (folder / "own_data_of_a_test.py").write_text(OWN)
    lines = [line for line in CONFIG.splitlines() if not line.startswith("data:")]
    (folder / "own.yaml").write_text("\n".join([*lines, "data: {class_path: own_data_of_a_test.Own}"]))
    assert main(["fit", "--config", "own.yaml"]) == 0
    assert sys.path[-1] == str(folder)  # behind all that is installed


def test_data_are_where_the_variable_says(folder, monkeypatch):
    monkeypatch.setenv("GEOEQ_DATA", "elsewhere")
    assert main(["fit", "--config", "tiny.yaml"]) == 0
    assert list(folder.glob("elsewhere/nbody/processed/*.pt"))
    assert not (folder / "data").exists()


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


def test_what_a_class_refuses_is_told_alone(folder, capsys):
    assert main(["fit", "--config", "tiny.yaml", "--data.batch_size=0"]) == 2
    assert errors(capsys) == ["geoeq: error: batch_size and eval_batch_size must be at least 1, got 0 and 1000"]


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
