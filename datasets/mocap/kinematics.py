"""Joint positions from joint angles, for all frames at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from geoeq.datasets.mocap.skeleton import Skeleton
from geoeq.datasets.trajectory import Trajectory

AXES = "xyz"


@dataclass(frozen=True, eq=False)
class Rig:
    r"""A skeleton that can be moved: what its channels turn and shift.

    Joint j has the frame N_j = N_p B_j R_j, p its parent, B_j its rest rotation and R_j the product of the elementary
    rotations of its channels, and lies at x_j = x_p + N_s (o_j + t_j) with its offset o_j and shift t_j. In Acclaim
    files s is j itself, a joint being the far end of a bone that turns; in BVH files s is the parent. The root hangs
    from the world: N = 1, x = 0.

    Args:
        skeleton: of J joints.
        channels: of each joint, in the order of the file: "tx", "ty", "tz" shift it, "rx", "ry", "rz" turn it.
        order: of each joint, the order of the product R_j: "zyx" means R_z R_y R_x.
        rest: [J, 3, 3], B_j.
        offset: [J, 3], o_j.
        bones_turn: whether s is the joint itself (except at the root) or its parent.
        degrees: whether angles are in degrees.
        unit: of lengths.
    """

    skeleton: Skeleton
    channels: tuple[tuple[str, ...], ...]
    order: tuple[str, ...]
    rest: np.ndarray
    offset: np.ndarray
    bones_turn: bool = False
    degrees: bool = True
    unit: str = ""

    @cached_property
    def n_channels(self) -> int:
        return sum(len(names) for names in self.channels)

    @cached_property
    def rows(self) -> list[range]:
        """Rows of each joint's channels among all channels."""
        ends = np.cumsum([len(names) for names in self.channels]).tolist()
        return [range(end - len(names), end) for names, end in zip(self.channels, ends, strict=True)]

    @property
    def turns(self) -> np.ndarray:
        """Rows of the channels that are angles."""
        return self._channel_table["r"][0]

    @cached_property
    def _channel_table(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For shifts "t" and turns "r": row among all channels, axis, joint."""
        rows: dict[str, list[tuple[int, int, int]]] = {"t": [], "r": []}
        flat = [(joint, name) for joint, names in enumerate(self.channels) for name in names]
        for row, (joint, name) in enumerate(flat):
            rows[name[0]].append((row, AXES.index(name[1]), joint))
        return {kind: tuple(np.array(found, dtype=np.int64).reshape(-1, 3).T) for kind, found in rows.items()}

    def positions(self, values: np.ndarray) -> np.ndarray:
        """Forward kinematics, one step per depth of the skeleton.

        Args:
            values: [C, T] float64, a row per channel, joint after joint.

        Returns:
            [T, J, 3] float64.
        """
        frames = self._frames(values)
        source = np.array(self.skeleton.parents)
        if self.bones_turn:
            source[1:] = np.arange(1, len(source))
        row, axis, joint = self._channel_table["t"]
        shifted = np.unique(joint)
        steps = np.einsum("jabt,jb->jat", frames[source], self.offset)
        if shifted.size:
            shift = np.zeros((len(self.skeleton), 3, values.shape[1]))
            shift[joint, axis] = values[row]
            steps[shifted] += np.einsum("jabt,jbt->jat", frames[source[shifted]], shift[shifted])
        for level in self.skeleton.levels[1:]:
            steps[level] += steps[[self.skeleton.parents[joint] for joint in level]]
        return np.ascontiguousarray(steps.transpose(2, 0, 1))

    def _frames(self, values: np.ndarray) -> np.ndarray:
        """N_j as [J + 1, 3, 3, T]; the last one, found at index -1, is that of the world."""
        n_joints, n_frames = len(self.skeleton), values.shape[1]
        local = self._rotations(values)
        local = (self.rest @ local.reshape(n_joints, 3, -1)).reshape(n_joints, 3, 3, n_frames)
        frames = np.empty((n_joints + 1, 3, 3, n_frames))
        frames[-1] = np.eye(3)[:, :, None]
        frames[0] = local[0]
        for level in self.skeleton.levels[1:]:
            parent = frames[[self.skeleton.parents[joint] for joint in level]]
            frames[level] = np.einsum("jabt,jbct->jact", parent, local[level])
        return frames

    def _rotations(self, values: np.ndarray) -> np.ndarray:
        """R_j as [J, 3, 3, T], in closed form; axes without a channel are not turned about."""
        row, axis, joint = self._channel_table["r"]
        angle = np.deg2rad(values[row]) if self.degrees else values[row]
        shape = (3, len(self.skeleton), values.shape[1])
        sin, cos = np.zeros(shape), np.ones(shape)
        sin[axis, joint], cos[axis, joint] = np.sin(angle), np.cos(angle)
        rotation = np.empty((shape[1], 3, 3, shape[2]))
        for order in set(self.order):
            chosen = np.array([index for index, own in enumerate(self.order) if own == order])
            rotation[chosen] = _euler(order, sin[:, chosen], cos[:, chosen])
        return rotation

    def trajectory(self, values: np.ndarray, time_step: float, name: str = "") -> Trajectory:
        """The recording with these channels [C, T]: positions, edges up to two bones long, limbs."""
        edge_index, edge_attr = self.skeleton.graph()
        return Trajectory(
            torch.from_numpy(self.positions(values)),
            time_step,
            self.unit,
            edge_index=edge_index,
            edge_attr=edge_attr,
            part=self.skeleton.part,
            name=name,
        )


def _euler(order: str, sin: np.ndarray, cos: np.ndarray) -> np.ndarray:
    """R_i(a) R_j(b) R_k(c) for order ijk, [M, 3, 3, T] from [3, M, T] by axis.

    An odd order is the mirror image of xyz, in which all angles change sign.
    """
    i, j, k = (AXES.index(letter) for letter in order)
    sign = 1.0 if (j - i) % 3 == 1 else -1.0
    (sa, sb, sc), (ca, cb, cc) = sign * sin[[i, j, k]], cos[[i, j, k]]
    rotation = np.empty((sin.shape[1], 3, 3, sin.shape[2]))
    rotation[:, i, i], rotation[:, i, j], rotation[:, i, k] = cb * cc, -cb * sc, sb
    rotation[:, j, i], rotation[:, j, j], rotation[:, j, k] = ca * sc + sa * sb * cc, ca * cc - sa * sb * sc, -sa * cb
    rotation[:, k, i], rotation[:, k, j], rotation[:, k, k] = sa * sc - ca * sb * cc, sa * cc + ca * sb * sc, ca * cb
    return rotation
