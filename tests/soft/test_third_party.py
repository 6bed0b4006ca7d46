"""Networks from elsewhere, of which only the ends are declared: the penalty alone makes them more equivariant."""

import pytest
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv, global_add_pool

from geoeq.audit import lie_error
from geoeq.groups import SO, SO2, O, Piecewise, S
from geoeq.reps import Nodes
from geoeq.soft import DualAscent, Evidence, Fixed, FunctionalEquivariance, SoftEquivariance


class GCN(nn.Module):
    """Vectors as plain features: two per node in, one out."""

    def __init__(self, width=24):
        super().__init__()
        self.first, self.second = GCNConv(6, width), GCNConv(width, 3)

    def forward(self, x, edge_index):
        return self.second(self.first(x, edge_index).tanh(), edge_index)


class Transformer(nn.Module):
    """Five tokens with two vectors each in, one vector each out."""

    def __init__(self, width=12):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 2, 24, dropout=0.1, batch_first=True)
        self.into, self.body, self.out = nn.Linear(6, width), nn.TransformerEncoder(layer, 1), nn.Linear(width, 3)

    def forward(self, x):
        return self.out(self.body(self.into(x)))


def gcn_case():
    torch.manual_seed(0)
    return GCN(), (torch.randn(12, 6), torch.randint(12, (2, 40)))


def transformer_case():
    torch.manual_seed(0)
    return Transformer(), (torch.randn(6, 5, 6),)


CASES = pytest.mark.parametrize("case", [gcn_case, transformer_case], ids=["gcn", "transformer"])


def trained(case, kind, steps=60, **options):
    network, args = case()
    soft = FunctionalEquivariance({"rotation": SO(3)}, "2x1o", "1x1o", kind=kind, **options).attach(network)
    before = soft.levels(*args).overall()["rotation"]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        soft.penalty(*args).backward()
        optimizer.step()
    return network, args, soft, before


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@CASES
@pytest.mark.parametrize("kind", ["orbit", "lie"])
def test_the_penalty_alone_lowers_the_functional_error(case, kind):
    network, args, soft, before = trained(case, kind, n_samples=2)
    after = soft.levels(*args).overall()["rotation"]
    assert after < 0.5 * before
    # one penalty lowers what the other measures
    fresh = case()[0].eval()
    other = [lie_error(f.eval(), args, SO(3), rep_in="2x1o", rep_out="1x1o") for f in (fresh, network)]
    assert other[1] < 0.6 * other[0]


@CASES
def test_the_same_seed_trains_the_same_network(case):
    found = []
    for _ in range(2):
        network, _, _, _ = trained(case, "orbit", steps=3)
        found.append([p.detach().clone() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@CASES
def test_levels_do_not_disturb_the_training(case):
    network, args = case()
    network.train()
    soft = FunctionalEquivariance({"rotation": SO(3)}, "2x1o", "1x1o").attach(network)
    state = soft.state_dict()["penalties.0._extra_state"].clone()
    one, two = soft.levels(*args), soft.levels(*args)
    assert one == two
    assert all(module.training for module in network.modules())
    assert torch.equal(soft.state_dict()["penalties.0._extra_state"], state)
    assert all(p.grad is None for p in network.parameters())
    assert "rotation" in str(one)


def test_the_network_keeps_its_own_weights():
    network, _ = gcn_case()
    soft = FunctionalEquivariance({"rotation": SO(3)}, "2x1o", "1x1o").attach(network)
    assert list(soft.parameters()) == []


def test_only_the_broken_symmetry_shows():
    """A push along z that no weight of a typed map holds."""
    push = torch.tensor([0.0, 0.0, 1.0])
    network = lambda x, edge_index: x[:, :3] + push  # noqa: E731
    _, args = gcn_case()
    groups = {"about z": SO2("z"), "about x": SO2("x"), "all": O(3)}
    levels = FunctionalEquivariance(groups, "2x1o", "1x1o").attach(network).levels(*args, n_samples=64).overall()
    assert levels["about z"] < 1e-6
    assert 0.1 < levels["about x"] < levels["all"] + 0.2
    share = (12 * 1.0 / (args[0][:, :3] + push).square().sum()).sqrt().item()
    assert levels["all"] == pytest.approx(share, rel=0.1)


def test_graphs_with_invariant_targets_and_stacked_samples():
    conv, head = GCNConv(6, 8), nn.Linear(8, 1)
    network = lambda x, edge_index, batch: head(global_add_pool(conv(x, edge_index).tanh(), batch))  # noqa: E731
    _, (x, edge_index) = gcn_case()
    batch = torch.arange(12) // 6
    edge_index = edge_index % 6 + 6 * torch.randint(2, (1, 40))
    values = []
    for stacked in (False, True):
        soft = FunctionalEquivariance({"rotation": SO(3)}, "2x1o", "1x0e", n_samples=3, stacked=stacked)
        values.append(soft.attach(network).penalty(x, edge_index, batch))
    assert torch.allclose(*values, rtol=1e-4)
    values[0].backward()
    assert conv.lin.weight.grad.abs().sum() > 0


def test_permutations_of_tokens_with_and_without_numbers():
    network, args = transformer_case()
    rep_in, rep_out = Nodes(5, "2x1o"), Nodes(5, "1x1o")
    number = torch.randn(5, 6)
    soft = FunctionalEquivariance({"tokens": S(5)}, rep_in, rep_out)
    assert soft.attach(network).levels(*args).overall()["tokens"] < 1e-4
    assert soft.attach(lambda x: network.eval()(x + number)).levels(*args).overall()["tokens"] > 0.1


def test_parts_of_a_graph_move_on_their_own():
    part = torch.arange(12) % 2
    _, (x, _) = gcn_case()
    soft = FunctionalEquivariance({"parts": Piecewise(SO(3))}, "2x1o", "1x1o", kind="lie")
    alone = lambda x: x[:, :3] - x[:, 3:]  # noqa: E731
    mixed = lambda x: x[:, :3] - x[:, :3].mean(0)  # noqa: E731
    assert soft.attach(alone).levels(x, part=part).overall()["parts"] < 1e-6
    assert soft.attach(mixed).levels(x, part=part).overall()["parts"] > 0.1


def test_strengths_weigh_and_zero_switches_off():
    network, args = gcn_case()
    groups = {"a": SO(3), "b": SO2("z")}

    def penalty(strength):
        return FunctionalEquivariance(groups, "2x1o", "1x1o", strength=strength).attach(network).penalty(*args)

    one, other = penalty({"a": 1.0, "b": 0.0}), penalty({"a": 0.0, "b": 1.0})
    assert torch.allclose(penalty({"a": 2.0, "b": 3.0}), 2 * one + 3 * other)
    assert penalty(0.0) == 0


def test_dual_ascent_presses_on_what_is_violated_and_rests_at_rho_times_the_squared_level():
    network, args = gcn_case()
    soft = FunctionalEquivariance(
        {"rotation": SO(3)}, "2x1o", "1x1o", strength=0.0, tuner=DualAscent(rho=2.0, rate=0.5), n_samples=4
    ).attach(network)
    soft.tune()
    assert soft.strengths.item() == 0  # nothing seen yet
    with torch.no_grad():
        for _ in range(80):
            soft.penalty(*args)
            soft.tune()
    assert soft.strengths.item() == pytest.approx(2.0 * soft.running.item(), rel=0.2)
    assert soft.strengths.item() > 0.1
    assert DualAscent(rho=1.0)(torch.tensor([1.0]), torch.tensor([0.0])).item() == pytest.approx(0.9)
    with pytest.raises(ValueError, match=r"rate must be finite and lie in \(0, rho\]"):
        DualAscent(rho=0.1, rate=1.0)


def test_a_saved_state_goes_on_as_it_was():
    network, args = gcn_case()
    make = lambda: FunctionalEquivariance(  # noqa: E731
        {"rotation": SO(3)}, "2x1o", "1x1o", tuner=DualAscent()
    ).attach(network)
    first, second = make(), make()
    first.penalty(*args)
    first.tune()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.penalty(*args), second.penalty(*args))
    assert torch.equal(first.strengths, second.strengths)
    assert first.half().strengths.dtype == torch.float64


@pytest.mark.parametrize("tuner", [Fixed(2.0), Evidence()], ids=["fixed", "found"])
def test_one_attach_serves_networks_from_elsewhere(tuner):
    """The loop is that of a typed model, with the penalty in the loss in place of the proximal step."""
    network, args = gcn_case()
    soft = SoftEquivariance({"rotation": SO(3)}, tuner)
    report = soft.attach(network, rep_in="2x1o", rep_out="1x1o")
    assert not report.covered
    assert len(report.uncovered) == len(list(network.parameters()))
    before = soft.levels(*args).overall()["rotation"]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(40):
        optimizer.zero_grad()
        loss = soft.penalty(*args)
        loss.backward()
        soft.observe(loss, 12)
        optimizer.step()
        soft.tune(step / 40, 100)
    assert soft.levels(*args).overall()["rotation"] < 0.8 * before
    with pytest.raises(ValueError, match="penalty"):
        soft.prox_step(optimizer)
    with pytest.raises(ValueError, match="no typed maps"):
        soft.harden()


def test_parts_reach_networks_from_elsewhere_and_graphs_are_one_clear_line():
    soft = SoftEquivariance({"parts": Piecewise(SO(3))}, Fixed(1.0))
    soft.attach(nn.Linear(3, 3, bias=False), rep_in="1o", rep_out="1o")
    x, part = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    assert soft.penalty(x, part=part) > 0.01
    assert soft.levels(x, part=part)[0].level > 0.1
    with pytest.raises(ValueError, match="args must be tensors where rep_in says how they answer, got Data"):
        soft.penalty(Data(pos=x), part=part)
