"""What the layers of a model are given on data, and how sure levels measured on it are.

A level is a ratio of numbers that are linear in the second moment of a layer's inputs. So the data are cut into
chunks, each chunk leaves its numbers, and a bootstrap over chunks needs nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geoeq.soft.typed_layer import TypedLayer, levels_from

__all__ = ["InputRecord", "bootstrap", "evaluated", "record_inputs"]

CHUNKS = 64
RESAMPLES = 1000
COVERAGE = 0.95


class InputRecord(NamedTuple):
    """What one layer was given.

    Attributes:
        moment: second moment of the input and, where there is a bias, the constant 1, summed over rows, ``[n, n]``,
            float64.
        interval: ends of the intervals of the levels of the weights as they were, ``[symmetries, 2]``; None where
            there were fewer than two rows.
    """

    moment: Tensor
    interval: Tensor | None


def record_inputs(
    layers: Sequence[TypedLayer], model: nn.Module, inputs: tuple[object, ...], *, seed: int = 0
) -> list[InputRecord]:
    """Call the model once and record what each of its layers is given.

    The rows that reach a layer (nodes, edges) are cut into up to 64 contiguous chunks. Rows of one graph are not
    independent, so if an input tells its ``num_graphs``, as a torch_geometric ``Batch`` does, there are no more
    chunks than graphs and, where graphs are of one size, no graph is cut: a block bootstrap.

    Args:
        layers: typed layers of ``model``.
        model: is called on ``inputs`` as in ``eval()``, without compilation, since compiled code passes hooks by.
        inputs: what the model is called with.
        seed: of the bootstrap.
    """
    samples = min((int(x.num_graphs) for x in inputs if hasattr(x, "num_graphs")), default=None)
    moments: dict[int, Tensor] = {}
    numbers: dict[int, Tensor] = {}
    by_module = {id(layer.module): layer for layer in layers}

    def listen(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        key, x = id(module), args[0].detach().reshape(-1, args[0].shape[-1])
        forms = by_module[key].forms()
        if forms.shape[-1] > x.shape[1]:
            x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        known = numbers.get(key)
        chunks = min(CHUNKS, len(x), samples or len(x)) if known is None else len(known)
        whole, own = chunk_numbers(x.double().cpu(), forms, chunk_sizes(len(x), chunks, samples or len(x)))
        moments[key] = whole if known is None else moments[key] + whole
        numbers[key] = own if known is None else known + own

    handles = [layer.module.register_forward_pre_hook(listen) for layer in layers]
    try:
        with torch.compiler.set_stance("force_eager"), evaluated(model):
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for layer in layers:
        key, alike = id(layer.module), torch.eye(layer.projectors[0].shape[1], dtype=torch.float64)
        interval = bootstrap(numbers[key], seed=seed) if key in numbers else None
        found.append(InputRecord(moments.get(key, alike), interval))
    return found


@contextmanager
def evaluated(network: object) -> Iterator[None]:
    """``network``, if it is a module, and all that it holds in ``eval()``, and then each part as it was."""
    training = [m for m in network.modules() if m.training] if isinstance(network, nn.Module) else []
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def chunk_sizes(rows: int, chunks: int, samples: int) -> list[int]:
    """Rows of each of ``chunks`` contiguous chunks, cut where one of ``samples`` runs of rows of equal length ends."""
    sample = torch.arange(rows) * samples // max(rows, 1)
    return (sample * chunks // max(samples, 1)).bincount(minlength=chunks).tolist()


def chunk_numbers(x: Tensor, forms: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Second moment of all rows of ``x [rows, n]``, a sum, and its numbers chunk by chunk, ``[chunks, outputs, F]``.

    With ``forms [outputs, F, n, n]``.
    """
    whole, numbers = forms.new_zeros(forms.shape[-2:]), []
    for piece in x.split(sizes):
        square = piece.T @ piece
        whole += square
        numbers.append(forms.flatten(2) @ square.flatten())
    return whole, torch.stack(numbers) if numbers else forms.new_zeros(0, *forms.shape[:2])


def bootstrap(numbers: Tensor, *, resamples: int = RESAMPLES, seed: int = 0) -> Tensor | None:
    """Percentile intervals ``[K, 2]`` of levels whose numbers are sums over chunks, ``[chunks, outputs, 1 + 3K]``.

    Returns None for fewer than two chunks. Source: Efron, Annals of Statistics 7 (1979) 1.
    """
    chunks = len(numbers)
    if chunks < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(chunks, (resamples, chunks), generator=generator)
    counts = torch.zeros(resamples, chunks, dtype=numbers.dtype).scatter_add_(1, draws, torch.ones_like(draws).double())
    ends = torch.tensor([(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], dtype=numbers.dtype)
    return torch.nanquantile(levels_from(torch.tensordot(counts, numbers, 1)), ends, dim=0).T
