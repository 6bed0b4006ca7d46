"""The comparison of methods: same budget, rows that can be resumed, a table."""

import json

import pytest
import torch

from geoeq.bench.methods import METHODS
from geoeq.bench.soft import TASKS, Job, bench, main, markdown, paired, rows_of
from geoeq.bench.train import Budget, train
from geoeq.datasets.vectors import CosSim, ModifiedInertia, PairDistances
from geoeq.layers.vector_mlp import count_parameters

FEW = Budget(epochs=2, batch_size=500, look=1, tune=1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "task",
    [ModifiedInertia(), ModifiedInertia(candidates="linear"), CosSim("so3", lifted=True), PairDistances()],
    ids=["axes", "linear", "CosSim", "PairDistances"],
)
def test_every_method_trains_on_every_kind_of_task(task, method):
    outcome = train(task, method, budget=FEW)
    assert 0 < outcome.test < 100
    assert set(outcome.levels) == (set() if METHODS[method].tuner is None else set(task.symmetries))


@pytest.mark.parametrize("task", [ModifiedInertia(), CosSim("so3", lifted=True)], ids=lambda t: type(t).__name__)
def test_capacities_are_equal(task):
    sizes = [count_parameters(way.build(task)) for way in METHODS.values()]
    assert max(sizes) < 1.05 * min(sizes)


def test_the_oracle_respects_what_is_true_and_nothing_more():
    model = METHODS["EMLP oracle"].build(ModifiedInertia(-1.0, "y"))
    assert {repr(group) for layer in model.modules() for group in getattr(layer, "groups", ())} == {"O2(y)"}
    assert METHODS["EMLP oracle"].build(CosSim("none", lifted=True)).readout.mode == "free"


def test_a_seed_gives_the_same_numbers():
    task = ModifiedInertia()
    first, second = (train(task, "Evidence", seed=3, budget=FEW) for _ in range(2))
    assert (first.test, first.levels) == (second.test, second.levels)


def test_rows_are_kept_and_not_made_twice(tmp_path, capsys):
    output = tmp_path / "deep" / "rows.jsonl"
    jobs = [Job("cossim both", "MLP", seed, 2) for seed in (0, 1)]
    first = bench(jobs[:1], output)
    rows = bench(jobs, output)
    assert rows[0] == first[0]
    assert "1 trainings, 1 known" in capsys.readouterr().err
    assert [json.loads(line)["seed"] for line in output.read_text().splitlines()] == [0, 1]
    output.write_text("{")
    with pytest.raises(ValueError, match="one JSON object per line"):
        bench(jobs, output)


def rows(errors):
    common = {"task": "inertia z", "epochs": 10, "levels": {}, "seconds": 1.0}
    return [
        common | {"method": method, "seed": seed, "test": error}
        for method, values in errors.items()
        for seed, error in enumerate(values)
    ]


def test_differences_are_paired_by_seed():
    results = rows({"a": [1.0, 2.0, 3.0], "b": [1.5, 2.5, 3.8]})
    gap, error = paired(results, "inertia z", 10, "a", "b")
    assert gap == pytest.approx(0.6)
    assert error == pytest.approx(0.1)
    assert paired(results[:1], "inertia z", 10, "a", "b") is None


def test_table_has_means_and_deviations():
    (row,) = rows_of(rows({"a": [1.0, 3.0]}))
    assert (row["test"], row["deviation"], row["seeds"]) == (2.0, pytest.approx(2**0.5), 2)
    assert "| inertia z | 10 | a | 2 | 2.0000 ± 1.4142 |" in markdown(rows({"a": [1.0, 3.0]}))


def test_command_prints_a_table(tmp_path, capsys):
    threads = torch.get_num_threads()
    options = ["--tasks", "cossim both", "--methods", "MLP", "--seeds", "0", "--epochs", "2"]
    main([*options, "--output", str(tmp_path / "rows.jsonl")])
    torch.set_num_threads(threads)
    assert "cossim both" in capsys.readouterr().out


def test_unknown_method_is_one_line():
    with pytest.raises(ValueError, match="method must be one of"):
        train(ModifiedInertia(), "magic", budget=FEW)
    assert set(TASKS) >= {"inertia z", "cossim none", "rigid l1"}
