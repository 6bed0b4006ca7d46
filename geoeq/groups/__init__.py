"""What can be done to space, to nodes and to parts: the groups, and :func:`parse` to read one from text."""

import ast

from geoeq.groups.base import Group
from geoeq.groups.compose import Product, Union
from geoeq.groups.euclidean import SE, E, T
from geoeq.groups.finite import C, D
from geoeq.groups.linear import GL, SL, Lorentz
from geoeq.groups.permutations import Mirror, S
from geoeq.groups.piecewise import Piecewise
from geoeq.groups.rotations import O2, SO, SO2, O
from geoeq.groups.scaling import Scaling

__all__ = [
    "C",
    "D",
    "E",
    "GL",
    "Group",
    "Lorentz",
    "Mirror",
    "O",
    "O2",
    "Piecewise",
    "Product",
    "S",
    "SE",
    "SL",
    "SO",
    "SO2",
    "Scaling",
    "T",
    "Union",
    "parse",
]

_NAMES: dict[str, type[Group]] = {name: globals()[name] for name in __all__ if name not in ("Group", "parse")}


def parse(text: str | Group) -> Group:
    """Read a group as it is written in Python; quotes around an axis may be left out.

    Raises:
        ValueError: if ``text`` is not a call of one of the groups above.

    >>> parse("Piecewise(E(3))"), parse("SO2(z)")
    (Piecewise(E(3)), SO2(z))
    """
    if isinstance(text, Group):
        return text
    try:
        return _build(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"symmetry must be a group such as SO(3), SO2(z) or Piecewise(E(3)), got {text!r}") from error


def _build(node: ast.expr) -> Group:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError("not a call")
    arguments = [_build(a) if isinstance(a, ast.Call) else _literal(a) for a in node.args]
    options = {str(k.arg): _literal(k.value) for k in node.keywords}
    return _NAMES[node.func.id](*arguments, **options)  # type: ignore[arg-type]


def _literal(node: ast.expr) -> object:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)
