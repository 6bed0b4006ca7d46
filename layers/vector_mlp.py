"""Networks on a few vectors, without a graph: typed, plain, and with a residual path beside the typed one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from geoeq.groups import Group, O
from geoeq.layers.bilinear import Bilinear
from geoeq.layers.typed_gate import TypedGate
from geoeq.layers.typed_linear import TypedLinear
from geoeq.reps import Rep, as_rep, rep_dim

__all__ = ["ResidualLinear", "ResidualPathway", "TypedMLP", "VectorMLP", "count_parameters", "matched_width"]


class TypedBlock(nn.Module):
    r"""A linear map, a share of products, a gate: :math:`z = W x + b,\ y = \phi(z + \beta\, B(z, z))`."""

    def __init__(self, linear: nn.Module, gate: TypedGate, *, bilinear: float) -> None:
        super().__init__()
        self.linear, self.gate, self.share = linear, gate, bilinear
        self.bilinear = Bilinear(gate.rep_in) if bilinear else None

    def preactivation(self, x: Tensor) -> Tensor:
        """What the gate takes, ``[..., gate.rep_in.dim]``."""
        z = self.linear(x)
        return z if self.bilinear is None else z + self.share * self.bilinear(z)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.preactivation(x))


class BlockStack(nn.Module):
    """Blocks one after the other, and a linear map at the end.

    Args:
        rep_in: how the input answers.
        rep_out: how the output answers.
        hidden: features between the blocks, before sizes are added.
        n_layers: number of linear maps in all.
        linear: makes a linear map between two representations.
        block: makes a block of a linear map and the gate that follows it.
    """

    def __init__(
        self,
        rep_in: Rep | str,
        rep_out: Rep | str,
        hidden: Rep | str,
        n_layers: int,
        *,
        linear: Callable[[Rep, Rep], nn.Module],
        block: Callable[[nn.Module, TypedGate], nn.Module],
    ) -> None:
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"n_layers must be at least 1, got {n_layers}")
        self.rep_in, self.rep_out = as_rep(rep_in), as_rep(rep_out)
        self.blocks = nn.ModuleList()
        rep = self.rep_in
        for _ in range(n_layers - 1):
            gate = TypedGate(hidden)
            self.blocks.append(block(linear(rep, gate.rep_in), gate))
            rep = gate.rep_out
        self.readout = linear(rep, self.rep_out)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != rep_dim(self.rep_in):
            raise ValueError(f"x must be [..., {rep_dim(self.rep_in)}], got {list(x.shape)}")
        for block in self.blocks:
            x = block(x)
        return self.readout(x)


class TypedMLP(BlockStack):
    r"""A perceptron whose linear maps are typed: exact, soft or free by one switch.

    Every block is a :class:`~geoeq.layers.TypedLinear`, plus a share of a
    :class:`~geoeq.layers.bilinear.Bilinear` of its outcome, and a :class:`~geoeq.layers.typed_gate.TypedGate`; the
    last linear map has neither. Products and gates hold no symmetry back: they are exact for every orthogonal group.

    Args:
        rep_in: how the input answers.
        rep_out: how the output answers.
        hidden: features of the hidden layers, for example ``TensorRep({0: 40, 1: 16, 2: 4}, d=3)`` or irreps; the
            sizes of the non-scalar copies come on top as further scalars.
        n_layers: number of linear maps in all.
        mode: ``"exact"``, ``"soft"`` or ``"free"``, see :class:`~geoeq.layers.TypedLinear`.
        group: the symmetry of exact mode and of the soft start; O(3) by default.
        bilinear: share of the products; 0 leaves them out.

    Shapes: ``x [..., rep_in.dim]`` to ``[..., rep_out.dim]``.

    Symmetry: exact mode commutes with ``group`` where it acts by orthogonal matrices on the hidden features; relative
    error below 1e-10 in float64.

    Raises:
        ValueError: for fewer than one layer, an unknown mode, or an input of the wrong width.

    Source: arXiv 2104.09459 (exact, called EMLP), arXiv 2306.00356 (soft).

    >>> from geoeq.reps import TensorRep
    >>> hidden = TensorRep({0: 8, 1: 4, 2: 2}, d=3)
    >>> model = TypedMLP(TensorRep({0: 5, 1: 5}, d=3), TensorRep({2: 1}, d=3), hidden)
    >>> model(torch.randn(7, 20)).shape
    torch.Size([7, 9])
    """

    def __init__(
        self,
        rep_in: Rep | str,
        rep_out: Rep | str,
        hidden: Rep | str,
        n_layers: int = 4,
        *,
        mode: str = "exact",
        group: Group | None = None,
        bilinear: float = 0.1,
    ) -> None:
        super().__init__(
            rep_in,
            rep_out,
            hidden,
            n_layers,
            linear=partial(TypedLinear, mode=mode, group=group or O(3)),
            block=partial(TypedBlock, bilinear=bilinear),
        )


class ResidualLinear(nn.Module):
    r"""Affine map :math:`y = (P(A) + B)\, x + P(a) + b` with an equivariant and a free path.

    Args:
        rep_in: how the input answers.
        rep_out: how the output answers.
        group: the symmetry of the equivariant path.
        scale: size of B at the start, against an orthogonal matrix; b starts at zero.

    Shapes: ``x [..., rep_in.dim]`` to ``[..., rep_out.dim]``.

    Source: arXiv 2112.01388, section 4.
    """

    def __init__(self, rep_in: Rep | str, rep_out: Rep | str, *, group: Group, scale: float = 1e-3) -> None:
        super().__init__()
        self.equivariant = TypedLinear(rep_in, rep_out, mode="exact", group=group)
        rows, columns = self.equivariant.weight.shape
        self.basic_weight = nn.Parameter(nn.init.orthogonal_(torch.empty(rows, columns)) * scale)
        self.basic_bias = nn.Parameter(torch.zeros(rows))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.equivariant.effective()
        bias = self.basic_bias if bias is None else bias + self.basic_bias
        return nn.functional.linear(x, weight + self.basic_weight, bias)


class ResidualBlock(TypedBlock):
    r"""A typed block with a free path beside the gate: :math:`y = \phi(z) + w \odot \mathrm{silu}(z)`."""

    def __init__(self, linear: nn.Module, gate: TypedGate, *, bilinear: float, scale: float) -> None:
        super().__init__(linear, gate, bilinear=bilinear)
        self.basic_gate = nn.Parameter(torch.full((rep_dim(gate.rep_in),), scale))

    def forward(self, x: Tensor) -> Tensor:
        z = self.preactivation(x)
        return self.gate(z) + self.basic_gate * nn.functional.silu(z)


class ResidualPathway(BlockStack):
    r"""A typed perceptron with a free path beside every equivariant one, and a prior that favours the latter.

    Args:
        rep_in: how the input answers.
        rep_out: how the output answers.
        hidden: features of the hidden layers, as for :class:`TypedMLP`.
        n_layers: number of linear maps in all.
        group: the symmetry of the equivariant paths; O(3) by default.
        bilinear: share of the products; 0 leaves them out.
        scale: size of the free paths at the start.

    Shapes: ``x [..., rep_in.dim]`` to ``[..., rep_out.dim]``.

    Raises:
        ValueError: for fewer than one layer, or an input of the wrong width.

    Source: arXiv 2112.01388, section 4.

    >>> from geoeq.reps import TensorRep
    >>> model = ResidualPathway(TensorRep({1: 2}, d=3), TensorRep({0: 1}, d=3), TensorRep({0: 8, 1: 4}, d=3))
    >>> loss = model(torch.randn(7, 6)).square().mean() + model.regularizer()
    """

    def __init__(
        self,
        rep_in: Rep | str,
        rep_out: Rep | str,
        hidden: Rep | str,
        n_layers: int = 4,
        *,
        group: Group | None = None,
        bilinear: float = 0.1,
        scale: float = 1e-3,
    ) -> None:
        super().__init__(
            rep_in,
            rep_out,
            hidden,
            n_layers,
            linear=partial(ResidualLinear, group=group or O(3), scale=scale),
            block=partial(ResidualBlock, bilinear=bilinear, scale=scale),
        )

    def regularizer(self, equivariant: float = 1e-5, basic: float = 1.0, scale: float = 1e-3) -> Tensor:
        r"""The loss term :math:`s\,(\lambda_A \sum \|A\|^2 + \lambda_B \sum \|B\|^2)`, a scalar.

        Args:
            equivariant: :math:`\lambda_A`, on weights and biases of the equivariant paths.
            basic: :math:`\lambda_B`, on weights, biases and gates of the free paths.
            scale: s, of the whole term.
        """
        named = list(self.named_parameters())
        kept = torch.stack([p.square().sum() for name, p in named if ".equivariant." in name])
        free = torch.stack([p.square().sum() for name, p in named if ".basic_" in name])
        return scale * (equivariant * kept.sum() + basic * free.sum())


class VectorMLP(nn.Sequential):
    """A plain perceptron with SiLU between its linear maps: no symmetry at all.

    Args:
        rep_in: how the input answers; only its width is used.
        rep_out: how the output answers; only its width is used.
        width: width of the hidden layers.
        n_layers: number of linear maps in all.

    Shapes: ``x [..., rep_in.dim]`` to ``[..., rep_out.dim]``.

    >>> VectorMLP("3x1o", "1x0e", 16)(torch.randn(7, 9)).shape
    torch.Size([7, 1])
    """

    def __init__(self, rep_in: Rep | str, rep_out: Rep | str, width: int, n_layers: int = 4) -> None:
        if n_layers < 1:
            raise ValueError(f"n_layers must be at least 1, got {n_layers}")
        widths = [rep_dim(as_rep(rep_in)), *[width] * (n_layers - 1), rep_dim(as_rep(rep_out))]
        layers: list[nn.Module] = []
        for into, out in pairwise(widths):
            layers += [nn.Linear(into, out), nn.SiLU()]
        super().__init__(*layers[:-1])


def count_parameters(model: nn.Module) -> int:
    """Number of trainable numbers of ``model``, as stored."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def matched_width(parameters: int, build: Callable[[int], nn.Module], largest: int = 4096) -> int:
    """The width at which ``build(width)`` has the number of parameters nearest to ``parameters``.

    Args:
        parameters: the number to match.
        build: makes a model whose number of parameters grows with its width.
        largest: the largest width to try.

    >>> matched_width(1000, lambda width: VectorMLP("3x1o", "1x0e", width))
    19
    """
    low, high = 1, largest
    while low < high:
        middle = (low + high) // 2
        if count_parameters(build(middle)) < parameters:
            low = middle + 1
        else:
            high = middle
    return min((w for w in (low - 1, low) if w >= 1), key=lambda w: abs(count_parameters(build(w)) - parameters))
