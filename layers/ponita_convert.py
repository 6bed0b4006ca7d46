"""Weights of the authors' networks in ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from geoeq.layers.ponita_cloud import CloudKernel
from geoeq.layers.ponita_conv import DistanceKernel, PonitaKernel
from geoeq.layers.ponita_kernel import KernelBasis, tensor_power_columns
from geoeq.layers.ponita_net import Kernel, PonitaNet

__all__ = ["ponita_from_reference"]


def ponita_from_reference(
    state_dict: Mapping[str, Tensor],
    grid: Tensor | str | int,
    *,
    vectors_in: int = 1,
    vectors_out: int = 1,
    dim: int = 3,
) -> PonitaNet:
    """A network with the weights of the authors' one: same inputs, same outputs.

    Their grid of orientations is random and not part of their state dict, so that it has to be given. Columns of
    their first layer that multiply equal products of the invariants are added up, which changes nothing.

    Args:
        state_dict: of ``PonitaFiberBundle`` or ``PonitaPointCloud``, package ebekkers/ponita.
        grid: their ``ori_grid`` [O, dim], or another grid for :class:`~geoeq.layers.ponita_conv.PonitaKernel`;
            ``"edges"`` for a position-orientation cloud (their ``num_ori=-1``), 0 for positions alone.
        vectors_in, vectors_out: how many of the channels in and out are vectors; the others are scalars.
        dim: dimension of space.

    Returns:
        :class:`~geoeq.layers.ponita_net.PonitaNet` in the dtype of the weights. For their graph task,
        sum its outputs over each graph.

    Raises:
        ValueError: the state dict is of another network.
    """
    if "x_embedder.weight" not in state_dict or "basis_fn.1.weight" not in state_dict:
        raise ValueError(f"state_dict must be that of a ponita network, got keys {sorted(state_dict)[:3]} ...")
    hidden, channels_in = state_dict["x_embedder.weight"].shape
    readouts = _numbers(state_dict, r"read_out_layers\.(\d+)\.weight")
    n_layers = len(_numbers(state_dict, r"interaction_layers\.(\d+)\.linear_1\.weight"))
    channels_out = len(state_dict[f"read_out_layers.{readouts[0]}.bias"])
    scaled = "interaction_layers.0.layer_scale" in state_dict
    net = PonitaNet(
        channels_in - vectors_in,
        vectors_in,
        channels_out - vectors_out,
        vectors_out,
        _kernel(state_dict, grid, dim),
        hidden=hidden,
        n_layers=n_layers,
        widening=len(state_dict["interaction_layers.0.linear_1.bias"]) // hidden,
        layer_scale=1.0 if scaled else None,
        readouts="all" if len(readouts) == n_layers else "last",
    ).to(state_dict["x_embedder.weight"].dtype)
    _fill(net, state_dict, readouts)
    return net


def _kernel(state_dict: Mapping[str, Tensor], grid: Tensor | str | int, dim: int) -> Kernel:
    hidden, columns = state_dict["basis_fn.1.weight"].shape
    n_attr = 3 if isinstance(grid, str) and grid == "edges" else 1 if isinstance(grid, int) and grid == 0 else 2
    degree = next((d for d in range(1, 20) if sum(n_attr**k for k in range(1, d + 1)) == columns), None)
    if degree is None:
        raise ValueError(f"grid must fit the {columns} columns of basis_fn.1.weight, got {n_attr} invariants")
    radius = state_dict.get("windowing_fn.r_max")
    options: dict[str, Any] = {"hidden": hidden, "basis": len(state_dict["basis_fn.3.bias"]), "degree": degree}
    options |= {"dim": dim, "radius": None if radius is None else float(radius)}
    if n_attr == 2:
        return PonitaKernel(grid, **options)
    return CloudKernel(**options) if n_attr == 3 else DistanceKernel(**options)


@torch.no_grad()
def _fill(net: PonitaNet, state_dict: Mapping[str, Tensor], readouts: list[int]) -> None:
    def copy(target: Tensor, name: str) -> None:
        target.copy_(state_dict[name])

    def copy_linear(target: nn.Linear, name: str) -> None:
        copy(target.weight, f"{name}.weight")
        if target.bias is not None:
            copy(target.bias, f"{name}.bias")

    def copy_basis(target: KernelBasis, name: str) -> None:
        full = state_dict[f"{name}.1.weight"]
        index = tensor_power_columns(target.n_attr, target.degree)
        target.inner.weight.zero_().index_add_(1, index, full)
        copy(target.inner.bias, f"{name}.1.bias")
        copy_linear(target.outer, f"{name}.3")

    copy_basis(net.kernel.spatial, "basis_fn")
    if isinstance(net.kernel, PonitaKernel):
        copy_basis(net.kernel.fiber, "fiber_basis_fn")
    copy_linear(net.trunk.embedding, "x_embedder")
    for k, block in enumerate(net.trunk.blocks):
        theirs = f"interaction_layers.{k}"
        copy_linear(block.conv.spatial, f"{theirs}.conv.kernel")
        if block.conv.fiber is not None:
            copy_linear(block.conv.fiber, f"{theirs}.conv.fiber_kernel")
        copy(block.conv.bias, f"{theirs}.conv.bias")
        copy(block.norm.weight, f"{theirs}.norm.weight")
        copy(block.norm.bias, f"{theirs}.norm.bias")
        copy_linear(block.widen, f"{theirs}.linear_1")
        copy_linear(block.narrow, f"{theirs}.linear_2")
        if block.layer_scale is not None:
            copy(block.layer_scale, f"{theirs}.layer_scale")
    for ours, number in zip(net.trunk.readouts, readouts, strict=True):
        copy_linear(ours, f"read_out_layers.{number}")


def _numbers(state_dict: Mapping[str, Tensor], pattern: str) -> list[int]:
    found = sorted(int(m[1]) for m in (re.fullmatch(pattern, key) for key in state_dict) if m)
    if not found:
        raise ValueError(f"state_dict must hold {pattern}, got none")
    return found
