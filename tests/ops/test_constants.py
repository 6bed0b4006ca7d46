"""Constants are real tensors whoever asks first, and products serve torch.func and batched gradients."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.functional import jacobian
from torch.func import grad, jacrev, vmap

from geoeq.layers import GauntConv, PonitaKernel, PonitaNet
from geoeq.ops import TensorProduct, gaunt_product
from geoeq.ops.constants import constants

COMPLETE = (1 - torch.eye(5)).nonzero().T


def test_what_a_tracer_asks_for_first_is_real():
    made = constants(lambda n: torch.arange(n).double())
    with FakeTensorMode():
        made(3)
    assert made(3).tolist() == [0.0, 1.0, 2.0]
    made = constants(lambda n: 2.0 * torch.ones(n))
    grad(lambda x: (x * made(3)).sum())(torch.zeros(3))
    assert made(3).numpy().tolist() == [2.0, 2.0, 2.0]
    with torch.inference_mode():
        made(4)
    assert not made(4).is_inference()


def test_export_leaves_eager_calls_alone():
    conv, x, pos = GauntConv(4, lmax=1, cutoff=3.0), torch.randn(5, 16), torch.randn(5, 3)
    exported = torch.export.export(conv, (x, pos, COMPLETE)).module()
    torch.testing.assert_close(exported(x, pos, COMPLETE), conv(x, pos, COMPLETE))


@pytest.mark.parametrize("mode", ["uuu", "uvu", "uvw"])
@pytest.mark.parametrize("operand", [0, 1, 2])
def test_products_of_a_batch_of_one_operand(mode, operand):
    second = "4x0e + 4x1o" if mode == "uuu" else "0e + 1o"
    product = TensorProduct("4x0e + 4x1o", second, "4x0e + 4x1o", mode=mode).double()
    sizes = (product.irreps1.dim, product.irreps2.dim)
    operands = [torch.randn(3, size, dtype=torch.float64) for size in sizes]
    operands.append(torch.randn(product.weight_numel, dtype=torch.float64))
    batch = torch.stack([operands[operand], 2 * operands[operand]])

    def of(value):
        return product(*operands[:operand], value, *operands[operand + 1 :])

    torch.testing.assert_close(vmap(of)(batch), torch.stack([of(value) for value in batch]))
    torch.testing.assert_close(jacrev(of)(batch[0]), jacobian(of, batch[0]))


def test_gradients_of_many_at_once():
    x, pos = torch.randn(3, 9, 2, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    net = PonitaNet(1, 0, 1, 0, PonitaKernel(6, hidden=8, basis=8), hidden=8, n_layers=1).double()
    ones = torch.ones(5, 1, dtype=torch.float64)
    for function, at in (
        (lambda x: gaunt_product(x, x, 2, 2, 2), x),
        (lambda pos: net(pos, COMPLETE, ones)[0], pos),
    ):
        torch.testing.assert_close(jacobian(function, at, vectorize=True), jacobian(function, at))


def test_many_edges_in_torch_func():
    conv = GauntConv(16, 2, cutoff=3.0)
    x, pos, edge_index = torch.randn(100, 144), torch.randn(100, 3), torch.randint(0, 100, (2, 15000))
    found = grad(lambda pos: conv(x, pos, edge_index).sum())(pos)
    pos.requires_grad_()
    conv(x, pos, edge_index).sum().backward()
    torch.testing.assert_close(found, pos.grad, rtol=1e-3, atol=1e-3 * pos.grad.abs().max().item())
