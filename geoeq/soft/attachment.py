"""What of a model is under control, what is exact by itself, and of what nothing is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from geoeq.groups import Group
from geoeq.reps import TensorRep, TypedMap
from geoeq.soft.typed_layer import TypedLayer

__all__ = ["Attachment"]


@dataclass(frozen=True)
class Attachment:
    """What :meth:`geoeq.soft.SoftEquivariance.attach` found.

    Attributes:
        covered: names of the weights under control.
        exact: names of the parameters of modules that no value of theirs can make less symmetric, as couplings (their
            ``equivariant`` is True; those of tensors need groups of orthogonal matrices).
        uncovered: names of the parameters that are not typed, so that nothing can be said of them.
        unknown: names of the modules without parameters of which nothing is known, as activations and dropout.
        unconstrained: symmetries that no covered weight can break: exact by construction, or not represented.
    """

    covered: list[str] = field(default_factory=list)
    exact: list[str] = field(default_factory=list)
    uncovered: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unconstrained: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        layers: Sequence[TypedLayer],
        maps: Sequence[TypedMap],
        groups: Sequence[Group],
        unconstrained: list[str],
    ) -> Attachment:
        """What is covered of ``model``, whose typed ``layers`` have the weights ``maps``."""
        exact = [module for module in model.modules() if is_exact(module, groups)]
        typed_ids = {id(typed.parameter) for typed in maps}
        exact_ids = {id(p) for module in exact for p in module.parameters()}
        return cls(
            covered=[typed.name for typed in maps],
            exact=[name for name, p in model.named_parameters() if id(p) in exact_ids],
            uncovered=[name for name, p in model.named_parameters() if id(p) not in typed_ids | exact_ids],
            unknown=unknown_modules(model, [*exact, *(layer.module for layer in layers)]),
            unconstrained=unconstrained,
        )

    def __str__(self) -> str:
        lines = [f"soft symmetry covers {len(self.covered)} weights"]
        if self.exact:
            lines.append(f"exact by construction: {', '.join(self.exact)}")
        if self.uncovered:
            lines.append(f"not covered (not typed): {', '.join(self.uncovered)}")
        if self.unknown:
            lines.append(f"not known to be equivariant: {', '.join(self.unknown)}")
        if self.unconstrained:
            lines.append(f"no covered weight can break: {', '.join(self.unconstrained)}")
        return "\n".join(lines)


def is_exact(module: nn.Module, groups: Sequence[Group]) -> bool:
    """Whether the module says that it is equivariant; gates and couplings of tensors are under orthogonal matrices."""
    if getattr(module, "equivariant", False) is not True:
        return False
    tensors = isinstance(getattr(module, "rep", getattr(module, "rep_in", None)), TensorRep)
    return not tensors or all(group.orthogonal for group in groups)


def unknown_modules(model: nn.Module, known_ones: Sequence[nn.Module]) -> list[str]:
    """Names of modules that compute something without parameters, and neither are nor belong to a known one."""
    known = {id(part) for module in known_ones for part in module.modules()}
    return [
        f"{name} ({type(module).__name__})"
        for name, module in model.named_modules()
        if next(module.children(), None) is None
        and next(module.parameters(), None) is None
        and not isinstance(module, nn.Identity | nn.ModuleList)
        and id(module) not in known
    ]
