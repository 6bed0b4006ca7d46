"""The tester itself: zero on what is equivariant, the known number on what is broken by a known amount."""

import pytest
import torch
from torch_geometric.data import Data

from geoeq.audit import orbit_error
from geoeq.groups import SO2, E, O, Piecewise, S, T


def cloud(n: int = 6) -> Data:
    generator = torch.Generator().manual_seed(0)
    pos, vel = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    empty = torch.zeros(2, 0, dtype=torch.long)
    return Data(pos=pos, vel=vel, edge_index=empty, part=torch.arange(n) % 2)


def drift(data: Data) -> torch.Tensor:
    return data.pos + data.vel


@pytest.mark.parametrize("group", [O(3), E(3), SO2("x"), T(3), S(6), Piecewise(E(3))], ids=repr)
def test_free_flight_has_every_symmetry(group):
    assert orbit_error(drift, cloud(), group) < 1e-12


def test_a_constant_push_along_z_keeps_what_it_should():
    push = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    model = lambda data: data.pos + push  # noqa: E731
    assert orbit_error(model, cloud(), SO2("z")) < 1e-12
    assert orbit_error(model, cloud(), T(3)) < 1e-12
    # mean over rotations of |R push - push|^2 is 2 |push|^2
    assert orbit_error(model, cloud(), O(3), n_samples=2000) == pytest.approx(2**0.5, rel=0.03)


def test_the_error_is_relative_to_the_displacement():
    far = cloud()
    far.pos = far.pos + 1000
    pull = lambda data: data.pos - 1e-3 * data.pos  # noqa: E731  towards the origin: breaks translations
    assert orbit_error(pull, far, T(3), n_samples=500) == pytest.approx(3**0.5 / 1000 / 3**0.5, rel=0.1)


def test_node_numbers_break_permutations():
    model = lambda data: data.pos + torch.arange(6.0, dtype=torch.float64).unsqueeze(1)  # noqa: E731
    assert orbit_error(model, cloud(), S(6)) > 0.1
    assert orbit_error(model, cloud(), T(3)) < 1e-12


def test_same_seed_same_number_and_bad_input():
    model = lambda data: data.pos * 2 + data.vel  # noqa: E731
    assert orbit_error(model, cloud(), T(3), seed=3) == orbit_error(model, cloud(), T(3), seed=3)
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        orbit_error(model, cloud(), T(3), n_samples=0)
