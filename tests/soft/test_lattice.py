"""Terms: the complements of all candidates, cut along their lattice."""

import pytest
import torch

from geoeq.groups import O2, SO, SO2, O, T
from geoeq.intertwiners import pair_space
from geoeq.layers import TypedLinear
from geoeq.reps import IrrepCopy, PositionCopy, TensorCopy
from geoeq.soft import Evidence, Fixed, SoftEquivariance
from geoeq.soft.bank import WeightBank
from geoeq.soft.lattice import coordinate_frame

VECTOR = IrrepCopy(1, -1)
NESTED = [O(3), O2("z"), SO2("z")]
OBLIQUE = [O(3), O2("x"), O2("y"), O2("z")]
COPIES = [(VECTOR, VECTOR), (TensorCopy(2, 3), TensorCopy(1, 3)), (TensorCopy(2, 3), TensorCopy(2, 3))]


def spaces(groups, pair):
    return [pair_space(group, *pair) for group in groups]


@pytest.mark.parametrize("groups", [NESTED, OBLIQUE], ids=["nested", "oblique"])
@pytest.mark.parametrize("pair", COPIES)
def test_coordinates_of_a_whole_symmetry_span_its_complement(groups, pair):
    found = spaces(groups, pair)
    frame, columns = coordinate_frame(found, split=False)
    for k, space in enumerate(found):
        own = frame[:, [frozenset({k}) in column for column in columns]]
        assert torch.allclose(own @ own.T, space.complement(), atol=1e-10)


@pytest.mark.parametrize("groups", [NESTED, OBLIQUE], ids=["nested", "oblique"])
@pytest.mark.parametrize("pair", COPIES)
def test_terms_that_name_a_symmetry_span_its_complement(groups, pair):
    """Nothing that a symmetry forbids is lost by the split, and nothing that it allows is taken."""
    found = spaces(groups, pair)
    frame, columns = coordinate_frame(found, split=True)
    for k, space in enumerate(found):
        own = frame[:, [any(k in term for term in column) for column in columns]]
        assert torch.allclose(space.complement() @ own, own, atol=1e-10)
        assert torch.linalg.matrix_rank(own) == space.dim - space.rank


def test_terms_of_a_chain_are_its_increments():
    """Maps of vectors: O(3) allows 1 of 9, O(2) about z 2, SO(2) about z 3."""
    frame = coordinate_frame(spaces(NESTED, (VECTOR, VECTOR)), split=True)
    sizes = {term: sum(term in column for column in frame.columns) for term in frame.terms}
    assert sizes == {frozenset({0}): 1, frozenset({0, 1}): 1, frozenset({0, 1, 2}): 6}


def test_terms_of_unrelated_symmetries_are_their_overlaps():
    """Positions to a vector: rotations allow 2 of 18, translations 9, both 1."""
    frame = coordinate_frame(spaces([SO(3), T(3)], (VECTOR, PositionCopy(2))), split=True)
    sizes = {tuple(sorted(term)): sum(term in column for column in frame.columns) for term in frame.terms}
    assert sizes == {(0,): 8, (1,): 1, (0, 1): 8}


def test_terms_are_orthogonal_where_all_commute_and_only_there():
    for groups, orthogonal in ((NESTED, True), (OBLIQUE, False)):
        frame, _ = coordinate_frame(spaces(groups, (TensorCopy(2, 3), TensorCopy(2, 3))), split=True)
        gram = frame.T @ frame
        assert bool(torch.allclose(gram, torch.eye(len(gram)).double(), atol=1e-10)) == orthogonal


def test_a_false_type_does_not_shrink_what_a_true_one_allows():
    """Rotations are false and held hard, those about z are true: what z allows is out of reach of its strength."""
    layer = TypedLinear("1o", "1o", bias=False, mode="free").double()
    soft = SoftEquivariance({"rotation": O(3), "about z": O2("z")}, Evidence())
    soft.attach(layer)
    allowed = O2("z").projector("1o", "1o").double()(layer.weight.detach())
    only_rotation = soft.bank.terms.index(frozenset({0}))
    soft.strengths.fill_(1e6)
    soft.strengths[:, only_rotation] = 0.0
    soft.prox_step(torch.optim.SGD(layer.parameters(), lr=1.0))
    assert torch.allclose(layer.weight, allowed, atol=1e-5)
    assert soft.strengths_of_symmetries().tolist() == [[0.0, 1e6]]


def test_bank_counts_what_each_symmetry_forbids():
    layer = TypedLinear("2x1o", "3x1o", mode="free")
    whole = WeightBank(layer.typed_maps(), OBLIQUE)
    assert whole.codim.tolist() == [[48, 42, 42, 42], [9, 6, 6, 6]]
    assert whole.terms == [frozenset({k}) for k in range(4)]


def test_inner_product_is_that_of_the_gradient_with_the_residual():
    layer = TypedLinear("2x1o", "3x1o", mode="free").double()
    soft = SoftEquivariance({"rotation": SO(3), "about x": SO2("x"), "about y": SO2("y")}, Fixed(1.0))
    soft.attach(layer)
    gradient = [torch.randn_like(p) for p in (layer.weight, layer.bias)]
    found = soft.bank.inner(soft.bank.flat(gradient), soft.bank.flat().detach())
    for k, group in enumerate(soft.symmetries.values()):
        residual = group.projector("2x1o", "3x1o").double().residual(layer.weight.detach())
        assert found[0, k].item() == pytest.approx(float((gradient[0] * residual).sum()), rel=1e-9)


def test_state_of_step_sizes_resumes():
    torch.manual_seed(0)
    layer = TypedLinear("2x1o", "3x1o", mode="free")
    soft = SoftEquivariance({"rotation": SO(3)}, Fixed(1.0))
    soft.attach(layer)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(3):
        layer(torch.randn(5, 6)).square().sum().backward()
        optimizer.step()
        soft.prox_step(optimizer)
    again = SoftEquivariance({"rotation": SO(3)}, Fixed(1.0))
    again.attach(layer)
    again.load_state_dict(soft.state_dict())
    assert again.step_sizes.age == soft.step_sizes.age == 3
    assert torch.equal(again.step_sizes(optimizer), soft.step_sizes(optimizer))
    assert (again.step_sizes(optimizer) > 0).all()
