"""One EGNN step as a function of its weights, with a backward pass written by hand.

The step exists twice with one meaning: in plain torch, and as an autograd function that saves the copies,
zero fills and gradient additions autograd would make. :func:`egnn_step` picks.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from geoeq.ops.backends import needs_plain_torch
from geoeq.ops.scatter import scatter_sum

__all__ = ["EGNNWeights", "egnn_step"]

silu_backward = torch.ops.aten.silu_backward
Optional: TypeAlias = Any  # Tensor or None; vel and the weights tell which, so no use is guarded


class EGNNWeights(NamedTuple):
    """Weights of one step, H wide: matrices ``w`` as in ``nn.Linear``, biases ``b``, None if absent."""

    w_node: Tensor  # [kH, H], first layers applied to h: receiver, sender, then velocity and node if present
    w_geometry: Tensor  # [H, 1 + A]
    b_edge: Tensor
    w_edge: Tensor
    b_edge_out: Tensor
    w_coord: Tensor
    b_coord: Tensor
    w_coord_out: Tensor  # [1, H]
    b_vel: Optional
    w_vel_out: Optional  # [1, H]
    b_vel_out: Optional
    b_node: Optional
    w_message: Optional
    w_node_out: Optional
    b_node_out: Optional


def egnn_step(
    h: Tensor,
    pos: Tensor,
    vel: Tensor | None,
    edge_attr: Tensor | None,
    edge_index: Tensor,
    inv_degree: Tensor,
    weights: EGNNWeights,
) -> tuple[Tensor, Tensor]:
    r"""Node features and positions after one EGNN step.

    .. math::
        m_{ij} &= \phi_e(h_i, h_j, |x_i - x_j|^2, a_{ij}), \\
        x_i' &= x_i + \tfrac{1}{n_i} \textstyle\sum_j (x_i - x_j)\,\phi_x(m_{ij}) + \phi_v(h_i)\,v_i, \\
        h_i' &= h_i + \phi_h(h_i, \textstyle\sum_j m_{ij}).

    Each :math:`\phi` has one hidden layer and SiLU; :math:`\phi_e` ends with a SiLU too.

    Args:
        h: node features [N, H].
        pos: positions :math:`x` [N, 3].
        vel: velocities :math:`v` [N, 3]; None leaves that term out.
        edge_attr: :math:`a` [E, A] or None.
        edge_index: [2, E], row 0 the sender j, row 1 the receiver i.
        inv_degree: :math:`1 / n_i` [N, 1].
        weights: without node weights :math:`h' = h`.

    Returns:
        :math:`h'` [N, H] and :math:`x'` [N, 3].

    Source: arXiv 2102.09844, equations 3 to 7; :class:`geoeq.layers.EGNNConv` owns the weights.
    """
    step = _plain if _needs_plain(pos) else _Step.apply
    return step(h, pos, vel, edge_attr, edge_index, inv_degree, *weights)


def _needs_plain(pos: Tensor) -> bool:
    """The hand-written backward serves neither export, torch.func, dual numbers nor mixed precision."""
    return needs_plain_torch() or not torch.is_grad_enabled() or torch.is_autocast_enabled(pos.device.type)


def _geometry(offset: Tensor, edge_attr: Tensor | None) -> Tensor:
    distance2 = offset.square().sum(1, keepdim=True)
    return distance2 if edge_attr is None else torch.cat([distance2, edge_attr], 1)


def _plain(
    h: Tensor,
    pos: Tensor,
    vel: Tensor | None,
    edge_attr: Tensor | None,
    edge_index: Tensor,
    inv_degree: Tensor,
    *weights: Tensor | None,
) -> tuple[Tensor, Tensor]:
    w = EGNNWeights._make(weights)
    sender, receiver = edge_index[0], edge_index[1]
    from_receiver, from_sender, *rest = F.linear(h, w.w_node).split(w.w_edge.shape[0], 1)
    offset = pos.index_select(0, receiver) - pos.index_select(0, sender)
    geometry = F.linear(_geometry(offset, edge_attr), w.w_geometry, w.b_edge)
    m_in = from_receiver.index_select(0, receiver) + from_sender.index_select(0, sender) + geometry
    m = F.silu(F.linear(F.silu(m_in), w.w_edge, w.b_edge_out))
    gate = F.linear(F.silu(F.linear(m, w.w_coord, w.b_coord)), w.w_coord_out)
    pos_out = pos + scatter_sum(offset * gate, receiver, pos.shape[0]) * inv_degree
    if vel is not None:
        pos_out = pos_out + F.linear(F.silu(rest[0] + w.b_vel), w.w_vel_out, w.b_vel_out) * vel
    if w.w_message is None:
        return h, pos_out
    total = F.linear(scatter_sum(m, receiver, pos.shape[0]), w.w_message)
    return h + F.linear(F.silu(rest[-1] + w.b_node + total), w.w_node_out, w.b_node_out), pos_out


class _Step(torch.autograd.Function):
    """The same values as :func:`_plain`; in-place work is on tensors made here, seen by nobody else."""

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        pos: Tensor,
        vel: Tensor | None,
        edge_attr: Tensor | None,
        edge_index: Tensor,
        inv_degree: Tensor,
        *weights: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        w = EGNNWeights._make(weights)
        sender, receiver = edge_index[0], edge_index[1]
        n_nodes, width = pos.shape[0], w.w_edge.shape[0]
        from_receiver, from_sender, *rest = (h @ w.w_node.t()).split(width, 1)
        offset = pos.index_select(0, receiver).sub_(pos.index_select(0, sender))
        geometry = _geometry(offset, edge_attr)
        m_in = (from_receiver + w.b_edge).index_select(0, receiver).add_(from_sender.index_select(0, sender))
        m_in.addmm_(geometry, w.w_geometry.t())
        m_mid = F.silu(m_in)
        m_out = torch.addmm(w.b_edge_out, m_mid, w.w_edge.t())
        m = F.silu(m_out)
        coord_in = torch.addmm(w.b_coord, m, w.w_coord.t())
        coord_mid = F.silu(coord_in)
        gate = coord_mid @ w.w_coord_out.t()
        pos_out = torch.addcmul(pos, scatter_sum(offset * gate, receiver, n_nodes), inv_degree)
        inner = [offset, geometry, m_in, m_mid, m_out, m, coord_in, coord_mid, gate]
        if vel is not None:
            vel_in = rest[0] + w.b_vel
            vel_mid = F.silu(vel_in)
            pos_out.addcmul_(torch.addmm(w.b_vel_out, vel_mid, w.w_vel_out.t()), vel)
            inner += [vel_in, vel_mid]
        h_out = h
        if w.w_message is not None:
            total = scatter_sum(m, receiver, n_nodes)
            node_in = (rest[-1] + w.b_node).addmm_(total, w.w_message.t())
            node_mid = F.silu(node_in)
            h_out = torch.addmm(w.b_node_out, node_mid, w.w_node_out.t()).add_(h)
            inner += [total, node_in, node_mid]
        ctx.save_for_backward(h, pos, vel, edge_attr, edge_index, inv_degree, *weights, *inner)
        ctx.set_materialize_grads(False)
        return h_out, pos_out

    @staticmethod
    def backward(ctx: Any, g_h: Tensor | None, g_pos: Tensor | None) -> tuple[Tensor | None, ...]:
        n_inputs = len(ctx.needs_input_grad)
        inputs, inner = ctx.saved_tensors[:n_inputs], ctx.saved_tensors[n_inputs:]
        if torch.is_grad_enabled():  # a second derivative follows: let autograd see every operation
            return _plain_backward(inputs, ctx.needs_input_grad, (g_h, g_pos))
        h, pos, vel, _, edge_index, inv_degree, *weights = inputs
        w = EGNNWeights._make(weights)
        offset, geometry, m_in, m_mid, m_out, m, coord_in, coord_mid, gate, *inner = inner
        sender, receiver = edge_index[0], edge_index[1]
        n_nodes = pos.shape[0]
        g_pos = torch.zeros_like(pos) if g_pos is None else g_pos
        g_node_side: list[Tensor] = []  # gradients of the first layers applied to h, in the order of w_node
        g: dict[str, Tensor] = {}

        if vel is not None:
            vel_in, vel_mid, *inner = inner
            g_scale = (g_pos * vel).sum(1, keepdim=True)
            g_vel_in = silu_backward(g_scale * w.w_vel_out, vel_in)
            g |= {"b_vel": g_vel_in.sum(0), "w_vel_out": g_scale.t() @ vel_mid, "b_vel_out": g_scale.sum(0)}
            g_node_side.append(g_vel_in)
        g_total = None
        if w.w_message is not None:
            g_h = torch.zeros_like(h) if g_h is None else g_h
            total, node_in, node_mid = inner
            g_node_in = silu_backward(g_h @ w.w_node_out, node_in)
            g |= {"b_node": g_node_in.sum(0), "w_message": g_node_in.t() @ total}
            g |= {"w_node_out": g_h.t() @ node_mid, "b_node_out": g_h.sum(0)}
            g_total = g_node_in @ w.w_message
            g_node_side.append(g_node_in)

        g_pull = (g_pos * inv_degree).index_select(0, receiver)
        g_gate = (g_pull * offset).sum(1, keepdim=True)
        g_coord_in = silu_backward(g_gate * w.w_coord_out, coord_in)
        if g_total is None:
            g_m = g_coord_in @ w.w_coord
        else:
            g_m = g_total.index_select(0, receiver).addmm_(g_coord_in, w.w_coord)
        g_m_out = silu_backward(g_m, m_out)
        g_m_in = silu_backward(g_m_out @ w.w_edge, m_in)
        g_receiver, g_sender = scatter_sum(g_m_in, receiver, n_nodes), scatter_sum(g_m_in, sender, n_nodes)
        g |= {"b_edge": g_receiver.sum(0), "w_edge": g_m_out.t() @ m_mid, "b_edge_out": g_m_out.sum(0)}
        g |= {
            "w_coord": g_coord_in.t() @ m,
            "b_coord": g_coord_in.sum(0),
            "w_coord_out": g_gate.t() @ coord_mid,
        }
        # Short side first: the transposed product is several times slower.
        g["w_geometry"] = (geometry.t() @ g_m_in).t()

        g_first = torch.cat([g_receiver, g_sender, *g_node_side], 1)
        g["w_node"] = g_first.t() @ h
        if g_h is None:
            g_h = g_first @ w.w_node
        else:
            g_h = torch.addmm(g_h, g_first, w.w_node)
        needs_pos, needs_vel, needs_attr = ctx.needs_input_grad[1:4]
        if needs_vel:
            g_vel = g_pos * torch.addmm(w.b_vel_out, vel_mid, w.w_vel_out.t())
        if needs_pos:
            g_distance2 = g_m_in @ w.w_geometry[:, :1]
            g_offset = torch.addcmul(g_pull * gate, offset, g_distance2, value=2)
            g_pos = g_pos + scatter_sum(g_offset, receiver, n_nodes).sub_(scatter_sum(g_offset, sender, n_nodes))
        return (
            g_h,
            g_pos if needs_pos else None,
            g_vel if needs_vel else None,
            g_m_in @ w.w_geometry[:, 1:] if needs_attr else None,
            None,
            None,
            *(g.get(name) for name in EGNNWeights._fields),
        )


def _plain_backward(
    inputs: tuple[Any, ...], needed: tuple[bool, ...], grads: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    # Views end the search at this step: one input (a start distance) may itself be computed from another.
    views = [x.view_as(x) if need else x for x, need in zip(inputs, needed, strict=True)]
    given = [(out, g) for out, g in zip(_plain(*views), grads, strict=True) if g is not None]
    wanted = [view for view, need in zip(views, needed, strict=True) if need]
    outs, cotangents = zip(*given, strict=True)
    found = iter(torch.autograd.grad(outs, wanted, cotangents, create_graph=True, allow_unused=True))
    return tuple(next(found) if need else None for need in needed)
