"""Levels on data: intervals, what counts as symmetric, the table beside that of a twin."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from geoeq.groups import O2, O, T
from geoeq.layers import TypedLinear
from geoeq.reps import Positions, Sum
from geoeq.soft import Fixed, LevelRow, Levels, SoftEquivariance, levels_of
from geoeq.soft.intervals import bootstrap, chunk_sizes, record_inputs
from geoeq.soft.levels import level_table
from geoeq.soft.typed_layer import levels_from, typed_layers

TYPES = {"rotation": O(3), "about z": O2("z")}


class Wrapped(nn.Module):
    """A layer that is called with a tensor, or with something that has one and tells its number of graphs."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, data):
        return self.layer(data if isinstance(data, torch.Tensor) else data.x)


def broken_layer():
    """Exact but for one weight from a scalar to x."""
    torch.manual_seed(1)
    layer = TypedLinear("2x0e + 2x1o", "2x1o", mode="soft").double()
    with torch.no_grad():
        layer.weight[0, 0] += 0.4
    return layer


def features(n, seed):
    """Features of unequal sizes with heavy tails."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=generator, dtype=torch.float64)
    return x * x.abs() * torch.linspace(0.5, 2.0, 8, dtype=torch.float64)


def test_the_level_on_data_is_its_definition():
    layer, x = broken_layer(), features(50, 0)
    joint = torch.cat([layer.weight, layer.bias.unsqueeze(1)], 1).detach()
    inputs = torch.cat([x, torch.ones(50, 1)], 1)
    weight_residual = O(3).projector(layer.rep_in, layer.rep_out).double().residual(layer.weight)
    residual = torch.cat([weight_residual, layer.bias.unsqueeze(1)], 1).detach()  # every bias of a vector is forbidden
    ratio = (inputs @ residual.T).square().sum() / (inputs @ joint.T).square().sum()
    # a random weight: share of the power outside, by drawing many of them
    random = torch.randn(4000, 6, 9, dtype=torch.float64)
    projector = O(3).projector("2x0e + 2x1o + 1x0e", "2x1o").double()
    outside = torch.stack([projector.residual(w) for w in random])
    share = (outside @ inputs.T).square().sum() / (random @ inputs.T).square().sum()
    level = {row.symmetry: row.level for row in levels_of(layer, TYPES, x)}["rotation"]
    assert level == pytest.approx(float((ratio / share).sqrt()), rel=5e-3)


def test_the_interval_holds_the_level_and_shrinks_with_the_data():
    layer = broken_layer()
    few, many = (levels_of(layer, TYPES, features(n, 0)) for n in (100, 6400))
    for row in [*few, *many]:
        assert row.low <= row.level <= row.high
    width = [table[0].high - table[0].low for table in (few, many)]
    assert width[1] < width[0] / 4


def test_the_interval_covers_the_truth_in_about_95_of_100_draws():
    layer = broken_layer()
    truth = levels_of(layer, TYPES, features(200_000, 99))[0].level
    layers, hits = typed_layers(layer, [O(3)]), 0
    for seed in range(100):
        low, high = record_inputs(layers, layer, (features(300, seed),))[0].interval[0]
        hits += bool(low <= truth <= high)
    assert 86 <= hits <= 99


def test_an_exact_layer_has_an_interval_at_zero():
    for row in levels_of(TypedLinear("2x0e + 2x1o", "2x1o").double(), TYPES, features(40, 0)):
        assert 0 <= row.low <= row.high < 1e-6


def test_graphs_are_not_cut():
    """Ten equal nodes per graph are one observation: the interval is that of the graphs, not of ten times more rows."""
    model, x = Wrapped(broken_layer()), features(30, 3)
    graphs = levels_of(model, TYPES, SimpleNamespace(x=x.repeat_interleave(10, 0), num_graphs=30))
    alone = levels_of(model, TYPES, x)
    rows = levels_of(model, TYPES, x.repeat_interleave(10, 0))
    assert (graphs[0].low, graphs[0].high) == pytest.approx((alone[0].low, alone[0].high))
    assert rows[0].high - rows[0].low < graphs[0].high - graphs[0].low


@pytest.mark.parametrize(
    ("rows", "chunks", "samples", "sizes"),
    [(12, 3, 12, [4, 4, 4]), (12, 2, 3, [8, 4]), (7, 3, 7, [3, 2, 2]), (0, 0, 0, []), (2, 4, 2, [1, 0, 1, 0])],
)
def test_chunk_sizes(rows, chunks, samples, sizes):
    assert chunk_sizes(rows, chunks, samples) == sizes


def test_the_bootstrap_is_that_of_the_numbers():
    """Against a plain loop over resampled chunks."""
    torch.manual_seed(0)
    numbers = torch.rand(9, 3, 7, dtype=torch.float64) + 0.1
    generator = torch.Generator().manual_seed(5)
    draws = torch.randint(9, (200, 9), generator=generator)
    expected = torch.stack([levels_from(numbers[draw].sum(0)) for draw in draws])
    ends = torch.quantile(expected, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0).T
    assert torch.allclose(bootstrap(numbers, resamples=200, seed=5), ends)
    assert bootstrap(numbers[:1]) is None


def test_the_interval_is_the_same_every_time():
    layer, x = broken_layer(), features(100, 0)
    first, again = levels_of(layer, TYPES, x), levels_of(layer, TYPES, x)
    assert list(first) == list(again)


def test_one_row_or_none_has_no_interval():
    layer = broken_layer()
    for rows in (1, 0):
        assert all(row.low is None for row in levels_of(layer, TYPES, features(rows, 0)))


def test_a_layer_that_is_called_twice_is_measured_on_both():
    layer, x = broken_layer(), features(90, 0)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x[:60]), self.layer(x[60:])

    twice, once = levels_of(Twice(), TYPES, x), levels_of(layer, TYPES, x)
    assert [row.level for row in twice] == pytest.approx([row.level for row in once], rel=1e-12)
    assert all(row.low < row.level < row.high for row in twice)


def test_a_layer_that_is_not_called_is_measured_on_its_weights():
    layer = broken_layer()
    model = nn.ModuleDict({"used": broken_layer(), "idle": layer})
    model.forward = lambda x: model["used"](x)
    rows = {(row.layer, row.symmetry): row for row in levels_of(model, TYPES, features(20, 0))}
    assert rows["idle", "rotation"].level == pytest.approx(levels_of(layer, TYPES)[0].level)
    assert rows["idle", "rotation"].low is None
    assert rows["used", "rotation"].low is not None


def test_compiled_models_are_measured_too():
    layer, x = broken_layer(), features(64, 0)
    compiled = torch.compile(Wrapped(layer), backend="eager")
    compiled(x)
    assert [row.level for row in levels_of(compiled, TYPES, x)] == [row.level for row in levels_of(layer, TYPES, x)]
    assert torch.allclose(compiled(x), layer(x))


def test_soft_equivariance_shows_the_same_levels():
    layer, x = broken_layer(), features(100, 0)
    soft = SoftEquivariance(TYPES, Fixed(0.0))
    soft.attach(layer)
    for inputs in ((), (x,)):
        assert [row.level for row in soft.levels(*inputs)] == [row.level for row in levels_of(layer, TYPES, *inputs)]


def test_strengths_and_names_reach_the_table():
    layers = typed_layers(broken_layer(), list(TYPES.values()))
    records = record_inputs(layers, layers[0].module, (features(20, 0),))
    table = level_table(layers, ["a", "b"], [[1.0, 2.0]], records)
    assert [(row.symmetry, row.strength) for row in table] == [("a", 1.0), ("b", 2.0)]


ROWS = [
    LevelRow("first", "rotation", 0.02, 10.0, 0.01, 0.04),
    LevelRow("last", "rotation", 0.01, 10.0, 0.0, 0.08),
    LevelRow("first", "about z", 0.03, 10.0),
]


@pytest.mark.parametrize(
    ("tolerance", "errors", "wanted"),
    [
        (0.1, {"rotation": 0.01, "about z": 0.01}, {"rotation": True, "about z": True}),
        (0.05, {"rotation": 0.01, "about z": 0.01}, {"rotation": False, "about z": True}),  # an upper end is above
        (0.1, {"rotation": 0.01, "about z": 0.31}, {"rotation": True, "about z": False}),  # small levels, broken net
        (0.02, {"rotation": 0.01, "about z": 0.01}, {"rotation": False, "about z": False}),
    ],
)
def test_symmetric_only_if_both_agree(tolerance, errors, wanted):
    assert Levels(ROWS).symmetric(tolerance, errors) == wanted
    assert Levels(ROWS, errors).symmetric(tolerance) == wanted


def test_symmetric_needs_functional_errors():
    with pytest.raises(ValueError, match=r"functional_errors must have every symmetry, missing \['about z'\]"):
        Levels(ROWS).symmetric(0.1, {"rotation": 0.1})


def test_the_table_shows_intervals_only_where_there_are_some():
    lines = str(Levels(ROWS, {"rotation": 0.0123})).splitlines()
    assert lines[0].split() == ["layer", "symmetry", "level", "interval", "strength"]
    assert "[0.0100, 0.0400]" in lines[2]
    assert "[" not in lines[4]
    assert lines[5] == "functional error of rotation: 0.0123"
    assert len({len(line) for line in lines[:5]}) == 1
    assert "interval" not in str(Levels(ROWS[2:]))
    assert str(Levels()).splitlines()[0].split() == ["layer", "symmetry", "level", "strength"]


def test_a_twin_stands_beside():
    x = features(50, 0)
    penalised, free = TypedLinear("2x0e + 2x1o", "2x1o").double(), broken_layer()
    ours, twins = levels_of(penalised, TYPES, x), levels_of(free, TYPES, x)
    lines = ours.beside(twins).splitlines()
    assert lines[0].split("  ")[0] == "layer"
    assert "twin's level" in lines[0]
    assert f"{twins[0].level:.4f}" in lines[2]
    assert lines[2].index("0.0000") < lines[2].index(f"{twins[0].level:.4f}")
    with pytest.raises(ValueError, match="twin must have the same layers and symmetries"):
        ours.beside(Levels())


@pytest.mark.parametrize("outputs", ["8x0e + 2x1o", "2x1o + 8x0e + 1x1o"])
def test_each_kind_of_output_has_a_scale_of_its_own(outputs):
    """What follows can amplify vectors alone, so that strong scalars must not hide that vectors are broken."""
    torch.manual_seed(0)
    layer = TypedLinear("3x0e + 2x1o", outputs, mode="soft").double()
    with torch.no_grad():
        vectors = torch.cat([torch.full((m.dim,), float(m.ir.l)) for m in layer.rep_out]).bool()
        layer.weight[vectors, 0] += torch.tensor([0.0, 0.0, 0.4]).repeat(int(vectors.sum()) // 3)
    x = torch.randn(100, 9, dtype=torch.float64)
    before = levels_of(layer, TYPES, x)
    with torch.no_grad():
        layer.weight[~vectors] *= 100.0
        layer.bias[~vectors] *= 100.0
    after = levels_of(layer, TYPES, x)
    assert before.overall()["rotation"] > 0.3
    assert before.overall()["about z"] < 1e-12
    for first, second in zip(before, after):
        assert (first.level, first.low, first.high) == pytest.approx((second.level, second.low, second.high), abs=1e-12)


def test_a_share_that_random_weights_hardly_have_is_no_measure():
    """One of many inputs is forbidden: an output that follows it alone has a level of at most the root of 2."""
    layer = TypedLinear(Sum("20x1o", Positions(1)), "1x1o", mode="soft", bias=False).double()
    levels = []
    for share in (0.0, 0.25, 0.5, 1.0):
        with torch.no_grad():
            layer.weight.zero_()
            layer.weight[:, 57:60] = (1 - share) ** 0.5 * torch.eye(3)
            layer.weight[:, 60:] = share**0.5 * torch.eye(3)
        levels.append(levels_of(layer, {"translation": T(3)})[0].level)
    assert levels == pytest.approx([0.0, 0.5**0.5, 1.0, 2**0.5])


def test_levels_from_has_no_level_where_nothing_is_forbidden():
    nan, zero = levels_from(torch.tensor([[6.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0]], dtype=torch.float64)).tolist()
    assert math.isnan(nan)
    assert zero == 0.0
