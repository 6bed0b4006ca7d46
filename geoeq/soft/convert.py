"""From exact to soft: the way back from :meth:`geoeq.soft.SoftEquivariance.harden`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from geoeq.groups import Group, parse
from geoeq.soft.typed_layer import typed_layers

__all__ = ["soften"]

EXACT = 1e-5  # level that rounding to float32 leaves


def soften(model: nn.Module, *, keep: Sequence[Group | str] = ()) -> nn.Module:
    """Make every exact typed map of ``model`` soft without changing an output, and return the model.

    Weights are replaced by their projections, from where they may leave the symmetry. Attach
    :class:`~geoeq.soft.SoftEquivariance` and give the weights to an optimizer afterwards.

    Args:
        model: has typed linear maps.
        keep: symmetries that stay exact, groups or their texts; they take the place of all that were exact.
            Without any, maps that are soft or free stay as they are.

    Raises:
        ValueError: if no module of the model is typed, or one does not have a symmetry that it shall keep; nothing is
            changed then.

    >>> from geoeq.layers import TypedLinear
    >>> soften(TypedLinear("1o", "1o")).mode, soften(TypedLinear("1o", "1o"), keep=["SO2(z)"]).groups
    ('soft', (SO2(z),))
    """
    kept = [parse(group) for group in keep]
    layers = typed_layers(model, kept)
    if not layers:
        raise ValueError("model must have typed linear maps (geoeq.layers.TypedLinear) to be softened, got none")
    for layer in layers:
        for group, level in zip(kept, layer.levels(), strict=True):
            if level > EXACT:
                raise ValueError(
                    f"keep must hold symmetries of every layer, got {group} at level {level:.2g} in {layer.name!r}"
                )
    for layer in layers:
        layer.module.relax(kept)  # type: ignore[operator]
    return model
