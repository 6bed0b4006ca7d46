"""Training, interruption and resumption, the run folder, comparison: on a system small enough for seconds."""

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from geoeq.cli import main
from geoeq.forecast.command import ForecastCLI, quieten
from geoeq.forecast.compare import compare
from geoeq.forecast.datamodule import EpochBatches, NBodyData
from geoeq.forecast.runs import checkpoint, new_folder, newest_config, write_csv

CONFIG = """
name: tiny
model:
  model:
    class_path: geoeq.layers.TypedMPNN
    init_args: {hidden: 4x0e + 2x1o, n_layers: 1, mode: soft}
  symmetries: {rotation: O(3), about the field: O2(z), translation: T(3)}
  tuner: {class_path: geoeq.soft.Evidence, init_args: {window: 3}}
  lr: 1.0e-2
  cosine: true
data: {field: 4.0, frames: [0, 2], sizes: [40, 20, 20], batch_size: 10, eval_batch_size: 20}
trainer: {accelerator: cpu, max_epochs: 4}
"""
CHECKPOINT = {"state_dict": {"weight": torch.arange(4.0)}, "pytorch-lightning_version": "2"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GEOEQ_DATA", raising=False)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture(autouse=True)
def _quiet(recwarn):
    quieten()


def fit(*options, runs="runs") -> ForecastCLI:
    return ForecastCLI(["fit", "--config", "tiny.yaml", f"--runs={runs}", *options])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def without_seconds(table):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in table]


def test_a_run_leaves_everything_in_its_folder(folder):
    cli = fit()
    left = {str(p.relative_to(cli.folder)) for p in cli.folder.rglob("*") if p.is_file()}
    files = {"config.yaml", "metrics.csv", "levels.csv", "report.html"}
    assert left == files | {"checkpoints/best.ckpt", "checkpoints/last.ckpt"}
    assert [row["epoch"] for row in rows(cli.folder / "metrics.csv")] == ["0", "1", "2", "3"]
    levels = rows(cli.folder / "levels.csv")
    assert {row["symmetry"] for row in levels} == {"rotation", "about the field", "translation"}
    assert all(0 <= float(row["level"]) < 10 for row in levels)
    assert "TypedMPNN" in (cli.folder / "config.yaml").read_text()
    assert "TypedMPNN" in (cli.folder / "report.html").read_text()


def test_an_interrupted_run_goes_on_to_the_same_result(folder, interrupted_at, capsys):
    straight = fit(runs="straight")
    with interrupted_at(2, 1):
        assert main(["fit", "--config", "tiny.yaml", "--runs=broken"]) == 130
    broken = next(Path("broken/tiny").iterdir())
    last = broken / "checkpoints/last.ckpt"
    hint = f"go on with: geoeq fit --config tiny.yaml --runs=broken --ckpt_path={last}\n"
    assert capsys.readouterr().err.endswith(hint)
    assert (broken / "report.html").exists()
    assert len(rows(broken / "metrics.csv")) == 2
    resumed = fit("--ckpt_path=last", runs="broken")
    assert resumed.folder == broken
    a, b = (torch.load(cli.folder / "checkpoints/last.ckpt", weights_only=True) for cli in (straight, resumed))
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for key, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][key]), key
    for table in ("metrics.csv", "levels.csv"):
        assert without_seconds(rows(straight.folder / table)) == without_seconds(rows(resumed.folder / table))


def test_what_to_go_on_with_is_never_an_older_run(folder, interrupted_at, capsys):
    fit()
    with interrupted_at(0, 1):
        assert main(["fit", "--config", "tiny.yaml"]) == 130
    assert capsys.readouterr().err.endswith("geoeq: interrupted; nothing saved yet\n")


def test_what_to_go_on_with_can_be_pasted_into_a_shell(folder, interrupted_at, capsys):
    args = ["fit", "--config", "tiny.yaml", "--name=a b", "--model.symmetries={rotation: O(3)}"]
    with interrupted_at(1, 0):
        assert main(args) == 130
    told = capsys.readouterr().err.splitlines()[-1].partition("go on with: ")[2]
    last = next(Path("runs/a b").glob("*/checkpoints/last.ckpt"))
    assert shlex.split(told) == ["geoeq", *args, f"--ckpt_path={last}"]


def test_test_and_predict_use_the_newest_run(folder, capsys):
    cli = fit()
    assert main(["test", "--config", "tiny.yaml", "--ckpt_path", "best"]) == 0
    assert main(["predict", "--config", "tiny.yaml", "--ckpt_path", "last"]) == 0
    arrays = np.load(cli.folder / "predictions.npz")
    nodes = dict.fromkeys(("predicted", "target", "position"), (100, 3))
    assert {key: value.shape for key, value in arrays.items()} == nodes | {"first_node": (21,)}
    assert "equivariance error" in (cli.folder / "report.html").read_text()


def test_a_test_of_the_best_epoch_reports_the_whole_training(folder, capsys):
    worse = ["--model.lr=0.3", "--model.model.init_args.mode=free", "--model.cosine=false"]
    cli = fit(*worse)
    assert torch.load(cli.folder / "checkpoints/best.ckpt", weights_only=True)["epoch"] < 3
    for command in (["--ckpt_path=best"], ["--ckpt_path=last"]):
        tested = ForecastCLI(["test", "--config", "tiny.yaml", *worse, *command]).recorder
        assert [row["epoch"] for row in tested.metrics] == [0, 1, 2, 3]
        assert tested.levels[-1]["epoch"] == 3
        assert tested.summary["seconds"] == pytest.approx(
            float(rows(cli.folder / "metrics.csv")[-1]["seconds"]), abs=1e-3
        )


def test_a_continued_run_keeps_every_configuration(folder):
    first = fit("--trainer.max_epochs=1")
    for epochs in (2, 3):
        assert fit("--ckpt_path=last", f"--trainer.max_epochs={epochs}").folder == first.folder
    names = {"config.yaml": 1, "config-2.yaml": 2, "config-3.yaml": 3}
    assert {path.name for path in first.folder.glob("*.yaml")} == set(names)
    for name, epochs in names.items():
        assert f"max_epochs: {epochs}\n" in (first.folder / name).read_text()
    assert "max_epochs: 3\n" in (first.folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("mode", "told"),
    [("soft", "soft symmetry covers"), ("exact", "levels are read from"), ("free", "levels are read from")],
)
def test_only_a_soft_network_is_said_to_be_softened(folder, capsys, mode, told):
    fit("--trainer.max_epochs=1", f"--model.model.init_args.mode={mode}")
    err = capsys.readouterr().err
    assert [text in err for text in ("soft symmetry covers", "levels are read from")].count(True) == 1
    assert re.search(rf"geoeq: {told} \d+ weights\n", err)


def test_options_of_the_trainer_are_honoured(folder, capsys):
    fit("--trainer.max_epochs=1", "--trainer.enable_model_summary=true", "--trainer.enable_progress_bar=true")
    told = "".join(capsys.readouterr())
    assert "Trainable params" in told
    assert "Epoch 0/0" in told


def test_comparison_trains_the_same_network_three_times(folder, capsys):
    args = ["--config", "tiny.yaml", "--trainer.max_epochs=2"]
    outcome = compare(args, seeds=[0, 1], name="both", runs="runs")
    assert [row["mode"] for row in outcome.rows] == ["exact", "soft", "free"]
    exact = outcome.rows[0]
    assert exact["level: rotation"] < 1e-5
    assert exact["error: rotation"] < 1e-4
    assert outcome.rows[2]["level: rotation"] > 0.5
    assert 0 < exact["fde"] == pytest.approx(sum(r.summary["fde"] for r in outcome.records[::3]) / 2)
    assert len(outcome.records) == 6
    table = rows(outcome.folder / "comparison.csv")
    assert float(table[0]["test_mse"]) == pytest.approx(exact["test_mse"])
    stored = json.loads((outcome.folder / "comparison.json").read_text())
    assert [len(stored["modes"]), len(stored["runs"])] == [3, 6]
    assert "free, seed 1" in (outcome.folder / "report.html").read_text()
    printed = capsys.readouterr().out
    assert "same network, data, steps and seeds" in printed
    assert "FDE" in printed


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ([], "elsewhere/tiny"),
        (["--name=mine"], "elsewhere/mine"),
        (["--runs=there"], "there/tiny"),
    ],
)
def test_comparison_is_where_the_configuration_or_the_options_say(folder, options, where):
    (folder / "tiny.yaml").write_text(f"runs: elsewhere\n{CONFIG}")
    args = ["--config", "tiny.yaml", "--trainer.max_epochs=1", "--modes", "free", *options]
    assert main(["compare", *args]) == 0
    (report,) = folder.glob("*/*/*/report.html")
    assert report.relative_to(folder).parent.parent == Path(where)
    assert f"geoeq compare: {Path(where).name}" in report.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--modes", "soft", "soft"], "modes must be different ones of"),
        (["--modes", "hard"], "modes must be different ones of"),
        (["--seeds", "1", "1"], "seeds must be different integers"),
        (["--seeds", "0", "-1"], "seeds must be different integers"),
        (["--data.system=foo"], "system must be one of"),
    ],
)
def test_what_cannot_be_compared_is_told_before_training(folder, capsys, options, message):
    assert main(["compare", "--config", "tiny.yaml", *options]) == 2
    assert f"geoeq: error: {message}" in capsys.readouterr().err.replace("data: NBodyData: ", "")
    assert not list(folder.glob("runs/*/*"))


@pytest.mark.parametrize("option", ["--data.system=foo", "--data.root=tiny.yaml", "--trainer.devices=0"])
def test_a_run_that_could_not_begin_leaves_no_folder(folder, capsys, option):
    assert main(["fit", "--config", "tiny.yaml", option]) == 2
    assert not list(folder.glob("runs/*/*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.epochs=3"], "epochs"),
        (["--model.lr=-1"], "lr must be positive"),
        (["--data.system=foo"], "system must be one of"),
        (["--data.batch_size=0"], "batch_size and eval_batch_size must be at least 1, got 0 and 20"),
        (["--data.eval_batch_size=0"], "batch_size and eval_batch_size must be at least 1, got 10 and 0"),
        (["--data.batch_size=41"], "batch_size must lie in [1, 40], got 41"),
        (["--data.shuffle_seed=-1"], "shuffle_seed must lie in [0, 2**32), got -1"),
        (["--trainer.logger=true"], "trainer.logger must be left out, got True"),
        (["--trainer.default_root_dir=here"], "trainer.default_root_dir must be left out, got here"),
        (["--model.model.init_args.mode=hard"], "mode must be one of"),
        (["--model.symmetries={rotation: turn}"], "symmetry must be a group"),
        (["--ckpt_path=last"], "no run in"),
        (["--ckpt_path=none.ckpt"], "does not exist"),
        (["--runs=tiny.yaml"], "cannot be created"),
        (["--data.root=tiny.yaml"], "tiny.yaml"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_exit_code_2(folder, capsys, options, message):
    assert main(["fit", "--config", "tiny.yaml", *options]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("geoeq: error:")]
    assert len(told) == 1
    assert message in told[0]


def test_missing_files_and_unknown_commands(folder, capsys):
    assert main(["fit", "--config", "nowhere.yaml"]) == 2
    assert main(["train"]) == 2
    assert main(["compare", "--config", "tiny.yaml", "--modes", "hard"]) == 2
    assert capsys.readouterr().err.count("geoeq: error:") == 3


def test_a_damaged_data_file_is_never_trained_on(folder, capsys):
    fit()
    stored = next(Path("data/nbody").rglob("*train*.pt"))
    stored.write_bytes(stored.read_bytes()[:-100])
    assert main(["fit", "--config", "tiny.yaml"]) == 2
    assert str(stored.name) in capsys.readouterr().err


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    assert main(["--version"]) == 0
    assert "compare" in capsys.readouterr().out


def test_shipped_configurations_are_found_anywhere(folder, capsys):
    assert main(["fit", "--config", "configs/nbody.yaml", "--print_config"]) == 0
    assert "TypedMPNN" in capsys.readouterr().out


def test_order_of_batches_is_a_function_of_seed_and_epoch():
    a, b = EpochBatches(20, 6, seed=1), EpochBatches(20, 6, seed=1)
    a.set_epoch(3)
    b.set_epoch(3)
    assert torch.equal(torch.cat(list(a)), torch.cat(list(b)))
    assert len(list(a)) == len(a) == 3
    b.set_epoch(4)
    assert not torch.equal(torch.cat(list(a)), torch.cat(list(b)))
    assert torch.equal(torch.cat(list(EpochBatches(20, 6))), torch.arange(20))


def test_true_paths_end_at_the_targets(tmp_path):
    data = NBodyData(str(tmp_path), field=1.0, frames=[0, 2], sizes=[4, 4, 4], log=False)
    paths, graphs = data.true_paths(3), data.split("test")
    batch = graphs.fetch(torch.arange(3))
    assert torch.allclose(torch.cat([path[0] for path in paths]).float(), batch.pos, atol=1e-6)
    assert torch.allclose(torch.cat([path[-1] for path in paths]).float(), batch.y, atol=1e-6)


def test_folders_of_one_second_do_not_collide(tmp_path):
    assert len({new_folder("a", tmp_path) for _ in range(3)}) == 3


@pytest.mark.parametrize(
    ("stamps", "newest"),
    [
        (["20260101-000000", "20260102-000000"], "20260102-000000"),
        (["20260101-000000", "20260101-000000-2", "20260101-000000-10"], "20260101-000000-10"),
    ],
)
def test_newest_checkpoint_wins(tmp_path, stamps, newest):
    for stamp in stamps:
        path = tmp_path / "a" / stamp / "checkpoints" / "last.ckpt"
        path.parent.mkdir(parents=True)
        torch.save(CHECKPOINT, path)
    assert checkpoint("last", "a", tmp_path).parts[-3] == newest


def test_newest_configuration_is_that_of_the_highest_number(tmp_path):
    assert newest_config(tmp_path) is None
    for name in ("config.yaml", "config-2.yaml", "config-10.yaml", "config-old.yaml"):
        (tmp_path / name).touch()
    assert newest_config(tmp_path) == tmp_path / "config-10.yaml"


def _array(path):
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_array, "whole checkpoint, got .*, damaged or something else"),
        (
            lambda path: torch.save({"state_dict": {}}, path),
            "checkpoint of geoeq fit, got .* no pytorch-lightning_version",
        ),
        (lambda path: torch.save(torch.zeros(3), path), "checkpoint of geoeq fit, got .* no state_dict"),
        (lambda path: path.mkdir(), "'best', 'last' or a file"),
    ],
)
def test_what_is_no_checkpoint_is_told(tmp_path, write, message):
    path = tmp_path / "some.ckpt"
    write(path)
    with pytest.raises((ValueError, FileNotFoundError), match=f"ckpt_path must be a? ?{message}"):
        checkpoint(str(path), "a", tmp_path)


def test_a_checkpoint_with_a_changed_byte_is_refused_or_read(tmp_path):
    path = tmp_path / "some.ckpt"
    torch.save(CHECKPOINT, path)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            checkpoint(str(path), "a", tmp_path)
        except ValueError as error:
            assert "ckpt_path must be a" in str(error)  # noqa: PT017
            refused += 1
        else:
            torch.load(path, weights_only=True)
    assert refused > 50


def test_tables_are_written_whole(tmp_path):
    write_csv(tmp_path / "t.csv", ["a", "b"], [{"a": 1}])
    assert (tmp_path / "t.csv").read_text() == "a,b\n1,\n"
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]
