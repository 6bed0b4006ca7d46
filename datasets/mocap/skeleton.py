"""The tree of joints: its graph, its mirror permutation and its limbs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Skeleton:
    """A rooted tree of named joints, each after its parent.

    Args:
        names: of the J joints, all different.
        parents: index of the parent of each joint; -1 for the first, which is the root.

    Raises:
        ValueError: one line if a name occurs twice or the joints are not in such an order.

    Example:
        >>> body = Skeleton(("hips", "lleg", "rleg", "head"), (-1, 0, 0, 0))
        >>> body.mirror.tolist(), body.part.tolist()
        ([0, 2, 1, 3], [0, 1, 2, 0])
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"names must differ, got {list(self.names)}")
        ordered = all(0 <= parent < joint for joint, parent in enumerate(self.parents) if joint)
        if len(self.names) != len(self.parents) or self.parents[:1] != (-1,) or not ordered:
            raise ValueError(f"parents must be -1 and then earlier joints, got {list(self.parents)}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def edges(self) -> list[tuple[int, int]]:
        """The J - 1 bones as pairs of joint and parent."""
        return [(joint, parent) for joint, parent in enumerate(self.parents) if joint]

    @cached_property
    def levels(self) -> list[list[int]]:
        """The joints at each depth, the root first."""
        depth: list[int] = []
        levels: list[list[int]] = []
        for joint, parent in enumerate(self.parents):
            depth.append(0 if parent < 0 else depth[parent] + 1)
            if depth[joint] == len(levels):
                levels.append([])
            levels[depth[joint]].append(joint)
        return levels

    def graph(self, hops: int = 2) -> tuple[Tensor, Tensor]:
        """Pairs of joints at most so many bones apart, and how many.

        Returns:
            ``edge_index`` [2, E] int64 in both directions, sorted by receiver, and ``edge_attr`` [E, 1] float32, the
            number of bones from 1 to ``hops``.

        Example:
            >>> edge_index, distance = Skeleton(("a", "b", "c"), (-1, 0, 1)).graph()
            >>> edge_index.tolist(), distance.flatten().tolist()
            ([[1, 2, 0, 2, 0, 1], [0, 0, 1, 1, 2, 2]], [1.0, 2.0, 1.0, 1.0, 2.0, 1.0])
        """
        near = torch.eye(len(self), dtype=torch.bool)
        bone = torch.zeros_like(near)
        for joint, parent in self.edges:
            bone[joint, parent] = bone[parent, joint] = True
        distance = torch.zeros(near.shape)
        for step in range(1, hops + 1):
            reached = (near.float() @ bone.float() > 0) & ~near
            distance[reached] = step
            near = near | reached
        receiver, sender = torch.nonzero(distance).T
        return torch.stack([sender, receiver]), distance[receiver, sender, None]

    @cached_property
    def mirror(self) -> Tensor:
        """The joint on the other side of the body, [J] int64: an automorphism of the tree.

        Sides are known by names: left and right anywhere, or l and r at the start or the end (any case). Joints without
        a partner are mapped to themselves.

        Raises:
            ValueError: one line if the two sides are built differently.
        """
        index = {name: joint for joint, name in enumerate(self.names)}
        mirror = [index[_other_side(name, index)] for name in self.names]
        for joint, parent in self.edges:
            if self.parents[mirror[joint]] != mirror[parent]:
                there = self.names[mirror[joint]]
                raise ValueError(f"skeleton must be alike on both sides, got {self.names[joint]!r} opposite {there!r}")
        return torch.tensor(mirror)

    @cached_property
    def part(self) -> Tensor:
        """The limb of each joint, [J] int64: 0 for the trunk, then 1, 2, ... for what hangs from it on either side."""
        index = {name: joint for joint, name in enumerate(self.names)}
        part: list[int] = []
        limbs = 0
        for joint, name in enumerate(self.names):
            above = part[self.parents[joint]] if joint else 0
            if not above and _other_side(name, index) != name:
                limbs += 1
                above = limbs
            part.append(above)
        return torch.tensor(part)


def _other_side(name: str, known: dict[str, int]) -> str:
    """The name with left and right exchanged if the skeleton has it, else the name itself."""
    for swapped in _swaps(name):
        if swapped in known and name in _swaps(swapped):
            return swapped
    return name


def _swaps(name: str) -> list[str]:
    words = [("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT")]
    words += [(right, left) for left, right in words]
    swapped = [name.replace(here, there, 1) for here, there in words if here in name]
    letter = {"l": "r", "r": "l", "L": "R", "R": "L"}
    if name[:1] in letter:
        swapped.append(letter[name[0]] + name[1:])
    if name[-1:] in letter:
        swapped.append(name[:-1] + letter[name[-1]])
    return swapped
