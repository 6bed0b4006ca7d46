import torch
from torch import nn

from geoeq.soft.joint_gradient import JointGradient


def weights() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in [(2, 3), (4,), (1, 5)]]


def loss_of(parameters: list[nn.Parameter]) -> torch.Tensor:
    return sum(p.square().sum() for p in parameters[:2])  # the last has no gradient


def test_parts_of_the_vector_take_the_place_of_gradients():
    parameters = weights()
    loss_of(parameters).backward()
    joint = JointGradient(parameters)
    vector = joint.gather()
    assert torch.equal(
        vector, torch.cat([2 * parameters[0].detach().flatten(), 2 * parameters[1].detach(), torch.zeros(5)])
    )
    vector *= 3
    joint.give_back()
    assert torch.equal(parameters[1].grad, 6 * parameters[1].detach())
    assert parameters[2].grad is None


def test_gradients_that_accumulate_in_the_vector_are_not_lost():
    parameters = weights()
    joint = JointGradient(parameters)
    for set_to_none in (True, False, False):
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = None if set_to_none else parameter.grad.zero_()
        loss_of(parameters).backward()
        loss_of(parameters).backward()
        joint.gather()
        joint.give_back()
        assert torch.allclose(parameters[0].grad, 4 * parameters[0].detach())


def test_the_vector_follows_the_dtype_of_the_weights():
    parameters = weights()
    joint = JointGradient(parameters)
    assert joint.gather().dtype == torch.float32
    for parameter in parameters:
        parameter.data = parameter.data.double()
    assert joint.gather().dtype == torch.float64
