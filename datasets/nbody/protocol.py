"""What is simulated: the system, the time grid and the symmetry knobs, checked once and hashable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from geoeq.datasets.checks import require, require_choice, require_count, require_counts
from geoeq.datasets.nbody.parts import part_ids
from geoeq.datasets.nbody.symmetry import ALL, FLIPS, MIRROR_OF_AXIS, MIRRORS_WITH_AXIS, TURNS, Residual

AXES = {"x": 0, "y": 1, "z": 2}
CLIPS = ("component", "norm")
CHIRAL_FORMS = ("triple", "field")
DEFAULT_BODIES = 5
KNOBS = ("field", "trap", "drag", "hidden_charges", "anisotropy", "chiral")


@dataclass(frozen=True)
class System:
    """Constants of one interaction: the force on body i is sum_j coupling_ij (x_i - x_j) law(r), unit masses.

    Attributes:
        strength: factor of the visible coupling of a pair (q_i q_j, or k_ij for springs).
        inverse_square: law(r) = (r^2 + softening^2)^(-3/2) if true, else 1 (linear springs).
        softening: length that keeps the inverse square law finite.
        limited: whether the interaction force on a body is clipped to 0.1 / dt.
        leapfrog: kick-drift-kick with synchronised velocities if true; the published staggered scheme if not.
        force_scale: reference force F of the knobs, see :data:`SYSTEMS`.
    """

    strength: float
    inverse_square: bool
    softening: float
    limited: bool
    leapfrog: bool
    force_scale: float


#: ``force_scale`` is the median of the interaction force on a body over the 49 stored frames of the
#: unperturbed 5-body system. The root mean square (charged 12.6, gravity 9.6, springs 0.36) would not do: for
#: an inverse square law rare close encounters make it, and for charged particles only the clip bounds it.
SYSTEMS = {
    "charged": System(1.0, True, 0.0, True, False, 0.317),
    "gravity": System(-1.0, True, 0.1, False, True, 2.64),
    "springs": System(-0.1, False, 0.0, True, False, 0.259),
}


def _is_number(value: object) -> bool:
    return type(value) is not bool and isinstance(value, Real) and not math.isnan(value)


@dataclass(frozen=True)
class Protocol:
    r"""The system, its time grid and its symmetry knobs; every argument is checked on construction.

    With F the reference force of the system (:data:`SYSTEMS`), a knob adds to the force on each body, or
    changes the interaction, and leaves exactly this group of symmetries:

    ================== ============================== ========================================================
    knob               effect                         what remains
    ================== ============================== ========================================================
    all 0              --                             E(3) x S(n), boosts, time reversal
    ``field``          + field F e_axis               T(3), O(2) about the axis (its rotations, and mirrors
                                                      that hold it), S(n), boosts, time reversal
    ``trap``           - trap F x                     O(3) about the origin, S(n), time reversal
    ``drag``           - drag F v                     E(3) x S(n)
    ``anisotropy``     interaction along the axis     T(3), O(2) about the axis and the mirror that reverses
                       times 1 + anisotropy           it, S(n), boosts, time reversal
    ``chiral`` in form + chiral F v x e_axis, as a    T(3), SO(2) about the axis and the mirror that
    ``"field"``        magnetic field along the axis  reverses it, S(n)
    ``chiral`` in form + chiral F s / (1 + \|s\|)     SE(3) x S(n), boosts
    ``"triple"``       d / (1 + d^2)^(1/2),
                       s = d . (u x f)
    ``hidden_charges`` coupling of body i shifted by  E(3), permutations among even and among odd indices
                       hidden_charges (-1)^i          S(ceil(n/2)) x S(floor(n/2)), boosts, time reversal
    ``rigid_parts``    rods inside sticks and hinges  E(3), permutations that map rods to rods (the ends of a
                                                      stick or of a hinge swap, equal parts swap), boosts,
                                                      time reversal
    ================== ============================== ========================================================

    In the triple product d and u are position and velocity of a body relative to the means over all bodies, f is the
    interaction force on it: a pseudoscalar, which reflections reverse, times a vector (zero for fewer than 3 bodies).
    :attr:`symmetry` has the group that is left as an object.

    The hidden shift turns q_i into q_i + hidden_charges (-1)^i for charged particles; for the other systems
    it multiplies the coupling of bodies i and j by g_i g_j, g_i = 1 + hidden_charges (-1)^i. Inertial masses
    stay 1. All rotations hold with ``clip="norm"``; with ``clip="component"`` (published), only the 48 signed
    permutations of the axes hold in the rare steps where the clip acts. A clip that acts also breaks the
    conservation of momentum. Staggered velocities (charged particles, springs) make time reversal exact to
    order dt only.

    Args:
        system: ``"charged"``, ``"gravity"`` or ``"springs"``.
        n_bodies: number of bodies n >= 1.
        n_steps: steps T of the published loop; the state after T - 1 steps ends it.
        every: stored frame k is the state at step every (k + 1); must divide ``n_steps``.
        dt: time step.
        field, trap, drag, hidden_charges, anisotropy, chiral: strengths >= 0.
        rigid_parts: 0 for no rods; a finite stiffness in units of F per unit length for elastic rods; ``inf``
            for rods of exactly constant length. The rest length is the initial distance.
        axis: ``"x"``, ``"y"`` or ``"z"``, direction of the fields and of the anisotropy.
        clip: ``"component"`` or ``"norm"``: how the interaction force of charged and springs is kept within
            0.1 / dt; the softened gravity needs none.
        chiral_form: ``"triple"`` or ``"field"``.
        objects: numbers of isolated bodies, sticks (2 bodies) and hinges (3 bodies, two rods that turn about the middle
            one), which follow each other in this order, as in the constrained systems of arXiv 2203.06442; their rods
            are rigid unless ``rigid_parts`` is finite and not 0. Then ``n_bodies`` is their number and need not be
            given, positions are drawn with (n / 5)^(1/3) + 0.1 in place of (n / 5)^(1/3), velocities are corrected
            to keep the rods' lengths, and frame k is the state at step every k + 1, all as published there.

    Raises:
        ValueError: one line naming the argument, what was expected and what came.
    """

    system: str = "charged"
    n_bodies: int = DEFAULT_BODIES
    n_steps: int = 5000
    every: int = 100
    dt: float = 1e-3
    field: float = 0.0
    trap: float = 0.0
    drag: float = 0.0
    hidden_charges: float = 0.0
    rigid_parts: float = 0.0
    axis: str = "z"
    clip: str = "component"
    anisotropy: float = 0.0
    chiral: float = 0.0
    chiral_form: str = "triple"
    objects: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name, choices in (("system", SYSTEMS), ("axis", AXES), ("clip", CLIPS), ("chiral_form", CHIRAL_FORMS)):
            require_choice(name, getattr(self, name), choices)
        if self.objects is not None:
            self._set_objects(self.objects)
        require_count("n_bodies", self.n_bodies, 1)
        require_count("every", self.every, 1)
        require_count("n_steps", self.n_steps, 2)
        divides = self.n_steps % self.every == 0 and self.n_steps >= 2 * self.every
        require(divides, "n_steps", f"a multiple of every={self.every} and at least twice it", self.n_steps)
        require(_is_number(self.dt) and 0 < self.dt < math.inf, "dt", "a finite number > 0", self.dt)
        for name in KNOBS:
            value = getattr(self, name)
            require(_is_number(value) and 0 <= value < math.inf, name, "a finite number >= 0", value)
        rods = self.rigid_parts
        require(_is_number(rods) and rods >= 0, "rigid_parts", "a number >= 0 or inf", rods)
        for name in ("dt", *KNOBS, "rigid_parts"):
            object.__setattr__(self, name, float(getattr(self, name)))  # 0 and 0.0 are one protocol, one hash
        for name in ("n_bodies", "n_steps", "every"):
            object.__setattr__(self, name, int(getattr(self, name)))
        # A hinge oscillates at omega^2 = 3 stiffness; beyond omega dt = 0.5 an explicit step is not accurate.
        stable = math.isinf(rods) or 3 * rods * self.scale * self.dt**2 < 0.25
        limit = 0.25 / (3 * self.scale * self.dt**2)
        require(stable, "rigid_parts", f"below {limit:.3g} at dt={self.dt:g}, or inf for rigid rods", rods)

    def _set_objects(self, objects: Sequence[int]) -> None:
        require_counts("objects", objects, 3, minimum=0)
        n_bodies = objects[0] + 2 * objects[1] + 3 * objects[2]
        require(n_bodies > 0, "objects", "at least one", tuple(objects))
        require(self.n_bodies in (n_bodies, DEFAULT_BODIES), "n_bodies", f"{n_bodies}, as objects say", self.n_bodies)
        object.__setattr__(self, "objects", tuple(int(count) for count in objects))
        object.__setattr__(self, "n_bodies", n_bodies)
        if _is_number(self.rigid_parts) and self.rigid_parts == 0:
            object.__setattr__(self, "rigid_parts", math.inf)

    @property
    def scale(self) -> float:
        """Reference force F of the system."""
        return SYSTEMS[self.system].force_scale

    @property
    def n_frames(self) -> int:
        """Number of stored frames, n_steps / every - 1; with ``objects`` one more."""
        return self.n_steps // self.every - (self.objects is None)

    @property
    def frame_time(self) -> float:
        """Time between two stored frames."""
        return self.every * self.dt

    @property
    def first_step(self) -> int:
        """Step of the first stored frame."""
        return self.every if self.objects is None else 1

    @property
    def times(self) -> Tensor:
        """Time of each stored frame, [T], float64."""
        if self.objects is None:
            return torch.arange(1, self.n_frames + 1, dtype=torch.float64) * self.frame_time
        return (torch.arange(self.n_frames, dtype=torch.float64) * self.every + 1) * self.dt

    @property
    def symmetry(self) -> Residual:
        """The symmetries that are left, exactly."""
        cosets = ALL
        if self.field:
            cosets &= {TURNS, MIRRORS_WITH_AXIS}
        magnetic = self.chiral > 0 and self.chiral_form == "field"
        handed = self.chiral > 0 and self.chiral_form == "triple"
        if magnetic:
            cosets &= {TURNS, MIRROR_OF_AXIS}
        if handed:
            cosets &= {TURNS, FLIPS}
        bodies = range(self.n_bodies)
        parts = part_ids(self.n_bodies, self.objects).tolist() if self.rigid_parts else bodies
        return Residual(
            axis=self.axis if self.field or self.anisotropy or magnetic else None,
            cosets=cosets,
            translations=not self.trap,
            boosts=not (self.trap or self.drag or magnetic),
            time_reversal=not (self.drag or self.chiral),
            classes=tuple(i % 2 if self.hidden_charges else 0 for i in bodies),
            parts=tuple(parts),
        )
