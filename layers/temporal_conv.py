"""Convolution along time in Fourier space, the same for every node and every component of a vector."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TemporalConv", "frame_embedding"]


class TemporalConv(nn.Module):
    r"""Channels mixed frequency by frequency, of the lowest frequencies along the frames.

    .. math::
        \hat x_k = \sum_{t=0}^{F-1} x_t\, e^{-2 \pi i k t / F}, \qquad \hat y_k = \hat x_k W_k \quad (k < M),
        \qquad y_t = \frac1F\, \mathrm{Re} \sum_{k < M} c_k\, \hat y_k\, e^{2 \pi i k t / F}

    with complex :math:`W_k`, :math:`c_k = 2` except for k = 0 and k = F / 2, where it is 1 and :math:`W_k` is real.
    Computed with two small real matrices in place of transforms, in the precision of the weights.

    Args:
        channels_in, channels_out: numbers of channels.
        n_frames: F.
        modes: number M of frequencies that pass, from 0, at most F // 2 + 1.

    Shapes: ``x [F, ..., channels_in]``; returns ``[F, ..., channels_out]``.

    Symmetry: cyclic shifts of the frames. Axes between frames and channels, such as nodes and the components of
    vectors, are not mixed: maps along them commute with the layer.

    Raises:
        ValueError: for sizes below 1, too many modes, or inputs of the wrong shape.

    Source: arXiv 2401.11037, section 4.2.

    >>> conv = TemporalConv(4, 2, n_frames=5, modes=2)
    >>> conv(torch.randn(5, 10, 3, 4)).shape
    torch.Size([5, 10, 3, 2])
    """

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, channels_in: int, channels_out: int, *, n_frames: int, modes: int) -> None:
        super().__init__()
        if min(channels_in, channels_out, n_frames) < 1:
            raise ValueError(f"sizes must be >= 1, got {channels_in}, {channels_out} and {n_frames}")
        if not 1 <= modes <= n_frames // 2 + 1:
            raise ValueError(f"modes must lie in [1, {n_frames // 2 + 1}] for {n_frames} frames, got {modes}")
        self.channels_in, self.channels_out, self.n_frames, self.modes = channels_in, channels_out, n_frames, modes
        analysis, synthesis = _fourier(n_frames, modes)
        self.register_buffer("analysis", analysis, persistent=False)
        self.register_buffer("synthesis", synthesis, persistent=False)
        self.real = nn.Parameter(torch.empty(modes, channels_in, channels_out))
        self.imag = nn.Parameter(torch.empty(len(analysis) - modes, channels_in, channels_out))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, of standard deviation 0.1 / sqrt(channels_in): beside a residual, a small change."""
        for weight in (self.real, self.imag):
            nn.init.normal_(weight, std=0.1 / math.sqrt(self.channels_in))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[0] != self.n_frames or x.shape[-1] != self.channels_in:
            raise ValueError(f"x must be [{self.n_frames}, ..., {self.channels_in}], got {list(x.shape)}")
        real, imag, paired = self.real, self.imag, slice(1, 1 + len(self.imag))  # frequencies that have a sine
        with torch.autocast(x.device.type, enabled=False):  # half precision would round positions
            waves = (self.analysis.to(real.dtype) @ x.to(real.dtype).flatten(1)).view(
                len(self.analysis), -1, self.channels_in
            )  # [M + K, rows, C]
            cosines, sines = waves[: self.modes], waves[self.modes :]
            crossed = torch.bmm(sines, imag)
            even = torch.bmm(cosines, real) + F.pad(crossed, (0, 0, 0, 0, 1, self.modes - 1 - len(imag)))
            odd = torch.bmm(sines, real[paired]) - torch.bmm(cosines[paired], imag)
            y = self.synthesis.to(real.dtype) @ torch.cat([even, odd]).flatten(1)
        return y.view(*x.shape[:-1], self.channels_out)

    def extra_repr(self) -> str:
        return f"{self.channels_in}, {self.channels_out}, n_frames={self.n_frames}, modes={self.modes}"


def _fourier(n_frames: int, modes: int) -> tuple[Tensor, Tensor]:
    """Frames to cosines then sines [M + K, F], and back [F, M + K]; frequencies 0 and F / 2 have no sine."""
    k, t = torch.arange(modes), torch.arange(n_frames)
    angle = (torch.outer(k, t) % n_frames).double() * (2 * math.pi / n_frames)
    paired = (k > 0) & (2 * k < n_frames)
    analysis = torch.cat([angle.cos(), angle[paired].sin()])
    twice = torch.cat([1 + paired.double(), torch.full((int(paired.sum()),), 2.0, dtype=torch.float64)])
    return analysis, (analysis * twice.unsqueeze(1)).T.contiguous() / n_frames


def frame_embedding(n_frames: int, dim: int) -> Tensor:
    """Sines and cosines of the frame number, of wavelengths from 2 pi to 20,000 pi frames, [F, dim] in float64.

    >>> frame_embedding(3, 4).round(decimals=2)[2]
    tensor([ 0.9100,  0.0200, -0.4200,  1.0000], dtype=torch.float64)
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"dim must be even and at least 2, got {dim}")
    wave = 10_000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) * 2 / dim)
    angle = torch.outer(torch.arange(n_frames, dtype=torch.float64), wave)
    return torch.cat([angle.sin(), angle.cos()], 1)
