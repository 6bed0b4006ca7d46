"""Cosine similarities of three vectors, with errors added that break scale, rotations or both."""

from __future__ import annotations

import torch
from torch import Tensor

from geoeq.datasets.vectors.task import VectorTask
from geoeq.groups import SO, Group, Product, S, Scaling
from geoeq.reps import Irreps, LogSizes, Rep, Sum, TensorRep

__all__ = ["VARIANTS", "CosSim", "lift", "lifted_rep"]

# name of the variant: the candidates that it keeps
VARIANTS = {
    "both": ("rotation and scale", "rotation", "scale", "S(3)", "S(2)"),
    "so3": ("rotation", "S(3)", "S(2)"),
    "scale": ("scale", "S(2)"),
    "none": ("S(2)",),
}
CANDIDATES = ("motions", "permutations")


class CosSim(VectorTask):
    r"""Three vectors to the mean cosine of their angles, plus what depends on lengths or on the axes.

    With :math:`s = \tfrac13 \sum_{cyc} \cos(x_i, x_{i+1})`, the mean length :math:`\bar\rho` and
    :math:`q = |x_1|_1 / (|x_2|_1 + |x_3|_1)`,

    =========  ==========================================  ======================
    variant    y                                           kept
    =========  ==========================================  ======================
    ``both``   :math:`s`                                   rotation and scale
    ``so3``    :math:`s - \epsilon \bar\rho`               rotation
    ``scale``  :math:`s - \epsilon q`                      scale
    ``none``   :math:`s - \epsilon \bar\rho + \epsilon q`  neither
    =========  ==========================================  ======================

    Linear maps on tensors that respect scale must keep the rank, so that no scalar ever sees a vector. A network that
    shall find scale takes the vectors as :func:`lift` gives them.

    Args:
        variant: which symmetries hold, one of the names above.
        epsilon: weight of the errors; 0 keeps everything.
        lifted: whether inputs are stored as :func:`lift` gives them.
        candidates: "motions" for rotations and scale; "permutations" for S(3) and S(2), the exchange of the last two
            vectors: inputs are then stored coordinate by coordinate, and coordinates are channels. q breaks S(3).
        n: number of samples in all, a multiple of 3.
        seed: seed of the draw; None takes ``n + 12``.
        dtype: floating type of the stored tensors.

    Shapes: ``x [n, 9]``, three vectors from N(0, 1), or ``[n, 12]``, their lift; ``y [n, 1]``.

    Raises:
        ValueError: for an unknown variant or list of candidates, permutations of lifted vectors, or as
            :class:`~geoeq.datasets.vectors.VectorTask`.

    Source: arXiv 2306.00356, section 5.

    >>> task = CosSim("so3")
    >>> task.residual, task.train.x.shape, CosSim("so3", lifted=True).train.x.shape
    (('rotation',), torch.Size([1000, 9]), torch.Size([1000, 12]))
    """

    points = 3
    width = 9
    published_strength = 0.01

    def __init__(
        self,
        variant: str = "both",
        epsilon: float = 1.0,
        lifted: bool = False,
        n: int = 3000,
        seed: int | None = None,
        dtype: torch.dtype = torch.float32,
        *,
        candidates: str = "motions",
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {list(VARIANTS)}, got {variant!r}")
        if candidates not in CANDIDATES:
            raise ValueError(f"candidates must be one of {list(CANDIDATES)}, got {candidates!r}")
        if lifted and candidates == "permutations":
            raise ValueError("lifted must be False with candidates='permutations', got True")
        self.variant, self.epsilon, self.lifted = variant, epsilon, lifted
        self.by_coordinate = candidates == "permutations"
        self.rep_in = lifted_rep(3) if lifted else TensorRep({1: 3}, d=3)
        self.rep_out = Irreps("1x0e") if lifted else TensorRep({0: 1}, d=3)
        super().__init__(n, seed, dtype)

    @property
    def symmetries(self) -> dict[str, Group]:
        if self.by_coordinate:
            return {"S(3)": S(3), "S(2)": S(3, classes=[0, 1, 1])}
        return {"rotation and scale": Product(SO(3), Scaling()), "rotation": SO(3), "scale": Scaling()}

    @property
    def residual(self) -> tuple[str, ...]:
        kept = VARIANTS["both" if self.epsilon == 0 else self.variant]
        return tuple(name for name in self.symmetries if name in kept)

    def inputs(self, noise: Tensor) -> Tensor:
        return lift(noise) if self.lifted else self.stored(noise.unflatten(-1, (3, 3)))

    def target(self, x: Tensor) -> Tensor:
        r = self.vectors(x)
        if self.lifted:
            r = r * x[..., :3, None].exp()
        y = torch.cosine_similarity(r, r.roll(-1, dims=-2), dim=-1).mean(-1)
        if self.variant in ("so3", "none"):
            y = y - self.epsilon * r.norm(dim=-1).mean(-1)
        if self.variant in ("scale", "none"):
            first, second, third = r.abs().sum(-1).unbind(-1)
            sign = -1.0 if self.variant == "scale" else 1.0
            y = y + sign * self.epsilon * first / (second + third)
        return y.unsqueeze(-1)


def lift(x: Tensor) -> Tensor:
    """Vectors as logarithms of their lengths, which a change of scale shifts, and directions, which it leaves alone.

    Args:
        x: k vectors, ``[..., 3 k]``, none of them zero.

    Returns:
        ``[..., 4 k]``, the k logarithms and then the k unit vectors, of the representation :func:`lifted_rep`.

    Raises:
        ValueError: for a width that is not a multiple of 3.

    >>> lift(torch.tensor([0.0, 0.0, 1.0]))
    tensor([0., 0., 0., 1.])
    """
    if x.shape[-1] % 3:
        raise ValueError(f"x must be [..., 3 k], got {list(x.shape)}")
    r = x.unflatten(-1, (-1, 3))
    length = r.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return torch.cat([length.log().squeeze(-1), (r / length).flatten(-2)], dim=-1)


def lifted_rep(points: int) -> Rep:
    """How :func:`lift` of ``points`` vectors answers.

    >>> lifted_rep(3).dim
    12
    """
    return Sum(LogSizes(points), Irreps([(points, "1o")]))
