"""The ETH/UCY forecasting data set: people seen for 3.2 s, their next 4.8 s to be forecast."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from geoeq.datasets.checks import require, require_choice, require_count, require_steps
from geoeq.datasets.download import data_root, download
from geoeq.datasets.pedestrians.tracks import TIME_STEP, Tracks, cut_windows, read_tracks, recording
from geoeq.datasets.ragged_graphs import RaggedGraphs, pointer, ragged_complete_graphs
from geoeq.datasets.stored import Stored
from geoeq.datasets.trajectory import Trajectory

SPLITS = ("train", "valid", "test")
MOTION = ("pos", "vel", "history", "y")
# recording: size in bytes and SHA-256 of the published text file
RECORDINGS = {
    "biwi_eth": (116970, "cf8d3fd342a15f409ebc2a1fc76b91a0f06390bd21f1e11410f3859331ab082b"),
    "biwi_hotel": (143799, "9caa771bb9153d6b809dd0916b6f86761b641e6bbb15e766c1de3133fbbb7fcf"),
    "students001": (879714, "a6d87f278d94136fe39b8be91555487a29ac77259ae403b9dba2d5c18caf7b5b"),
    "students003": (724279, "e25798b660634330aa89f8bb259425de720e84d0873902726c1d1f4ccff21d6c"),
    "uni_examples": (109307, "61f432c0ab3070ed0ef150fbeabcd7baf839cab5495a46e6105bd747f0a092a7"),
    "crowds_zara01": (205711, "1147a1962a09abfb86f28c6cddcac862e095a0cf129b3016385b69eacdd09d85"),
    "crowds_zara02": (392227, "8a649d0f8c9ae75c87c4d23a85f892786b0aa30266e996c7be03e69dafff22ff"),
    "crowds_zara03": (199834, "16b3e899932c4baacd07f45013d5b921f90bc5a29eb2b0fe42f4d7c904ac3108"),
}
# scene: the recordings it is tested on; all others are trained on
SCENES = {
    "eth": ("biwi_eth",),
    "hotel": ("biwi_hotel",),
    "univ": ("students001", "students003"),
    "zara1": ("crowds_zara01",),
    "zara2": ("crowds_zara02",),
}
MIRRORS = (
    "https://raw.githubusercontent.com/abduallahmohamed/Social-STGCNN/333d3a57b4d2705e129b21aefefa09c79b2b9ae1",
    "https://cdn.jsdelivr.net/gh/abduallahmohamed/Social-STGCNN@333d3a57b4d2705e129b21aefefa09c79b2b9ae1",
    "https://raw.githubusercontent.com/vita-epfl/Social-STGCNN/13cb923bf28341116f0365b58feac6ec61086898",
)


class Pedestrians(Stored, RaggedGraphs):
    r"""Forecasting of pedestrians on the ETH and UCY recordings, one scene left out.

    A graph is a window of consecutive frames, 0.4 s apart, and its nodes are the pedestrians who are seen at all of
    them. Positions are metres on the ground as the authors of the recordings give them: the factor 1.4 by which some
    works stretch the scene ``eth`` is *not* applied. With the defaults there are so many windows, and pedestrians in
    all of them together,

    ====== ============ =========== ===========
    scene  train        valid       test
    ====== ============ =========== ===========
    eth    3283, 30307  733, 5422   253, 364
    hotel  3118, 29676  688, 5203   445, 1197
    univ   2719, 9874   622, 2800   947, 24334
    zara1  2889, 28577  671, 5184   705, 2356
    zara2  2681, 26076  590, 4262   998, 5910
    ====== ============ =========== ===========

    and the same as those of Social-GAN (arXiv 1803.10892) with ``min_pedestrians=2``: its code leaves windows with one
    pedestrian out, though its option reads 1. As there, the scene's recordings are the test set; of every other
    recording the windows inside the first 80 % of its frames are trained on, those inside the rest are validated on.
    The recordings ``uni_examples`` and ``crowds_zara03``, from the places of ``univ`` and ``zara1``, ``zara2``, are
    always trained on.

    A graph has ``pos`` [n, 2] (last past frame), ``vel`` [n, 2] (m/s, difference to the frame before), ``history``
    [n, P, 2], ``y`` [n, F, 2] ([n, 2] for one future frame), ``edge_index`` [2, E] (complete or within ``radius`` at
    the last past frame, sorted by receiver), ``ids`` [n] (of the pedestrians in the recording), ``start`` [1] (first
    frame, as numbered there) and ``recording`` [1] (its place in :attr:`names`). One pedestrian alone is a graph
    without edges.

    With ``space=3`` the ground stands in space at z = 0, as networks of three dimensions need it, and ``pos``, ``vel``,
    ``history`` and ``y`` have a third component, which is zero.

    Symmetry: rotations, reflections and shifts of the ground, SE(2) and E(2), act on ``pos``, ``history`` and ``y``,
    their linear part on ``vel``. Obstacles, entrances and keeping to one side break them.

    Files missing in ``root/raw`` are downloaded (2.8 MB in all); those that are there are used if they have the
    published checksums. What is cut from them is stored under ``root/processed``.

    Args:
        root: folder of the data; None for ``pedestrians`` in the folder of the variable GEOEQ_DATA, or in ``data``.
        scene: ``"eth"``, ``"hotel"``, ``"univ"``, ``"zara1"`` or ``"zara2"``, the one that is tested on.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        past: number P of frames given, at least 2 (a velocity needs two).
        future: the steps after the last past frame that are to be forecast; a number F is short for 1, ..., F.
        stride: frames between the starts of two windows.
        min_pedestrians: leave out windows with fewer.
        radius: of the edges, in metres; None joins all pedestrians of a window.
        space: dimensions of the positions, 2 or 3.
        dtype: ``"float32"`` or ``"float64"``, of the stored values.
        transform: applied to each graph on access (not by :meth:`fetch`).
        pre_transform: applied to each graph once, before it is stored. Its repr tells stored files apart: after a
            change that this does not show use ``force_reload``.
        force_reload: read the recordings again even if the stored file is there.
        log: say on stderr what was made and how long it took.

    Raises:
        ValueError: one line for a wrong argument, a file that is damaged or cannot be had, a folder that cannot be
            written, or if no window is left.

    Example:
        >>> data = Pedestrians(scene="zara1", split="test")  # doctest: +SKIP
        >>> data[0]  # doctest: +SKIP
        Data(pos=[2, 2], vel=[2, 2], history=[2, 8, 2], y=[2, 12, 2], edge_index=[2, 2], ids=[2], start=[1], ...)
        >>> data.fetch(torch.tensor([3, 1])).num_graphs  # doctest: +SKIP
        2
    """

    def __init__(
        self,
        root: str | Path | None = None,
        scene: str = "eth",
        split: str = "train",
        past: int = 8,
        future: int | Sequence[int] = 12,
        *,
        stride: int = 1,
        min_pedestrians: int = 1,
        radius: float | None = None,
        space: int = 2,
        dtype: str | torch.dtype = "float32",
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        force_reload: bool = False,
        log: bool = True,
    ) -> None:
        require_choice("scene", scene, SCENES)
        require_choice("split", split, SPLITS)
        require_count("past", past, 2)
        steps = require_steps("future", future)
        require_count("stride", stride, 1)
        require_count("min_pedestrians", min_pedestrians, 1)
        require(radius is None or (radius > 0 and math.isfinite(radius)), "radius", "positive or None", radius)
        require(space in (2, 3), "space", "2 or 3", space)
        dtype_name = str(dtype).removeprefix("torch.")
        require(dtype_name in ("float32", "float64"), "dtype", "'float32' or 'float64'", dtype)
        self.scene, self.split, self.past, self.steps = scene, split, int(past), steps
        self.stride, self.min_pedestrians, self.radius = int(stride), int(min_pedestrians), radius
        self.space, self.dtype = space, getattr(torch, dtype_name)
        root = str(data_root(root, "pedestrians"))
        super().__init__(root, transform, pre_transform, log=log, force_reload=force_reload)
        self._load()

    def _split(self, made: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        values = {name: value for name, value in made.items() if not name.endswith("_ptr")}
        for name in MOTION:
            values[name] = pad(values[name], (0, self.space - 2))
        graphs = torch.arange(made["node_ptr"].numel())
        slices = {"edge_index": made["edge_ptr"], "start": graphs, "recording": graphs}
        return values, {name: slices.get(name, made["node_ptr"]) for name in values}

    @property
    def names(self) -> list[str]:
        """The recordings that the split is cut from."""
        tested = SCENES[self.scene]
        return list(tested) if self.split == "test" else [name for name in RECORDINGS if name not in tested]

    @property
    def raw_file_names(self) -> list[str]:
        return [f"{name}.txt" for name in self.names]

    def _download(self) -> None:
        # In place of the base class's method, which asks for raw files even if all that they are for is stored.
        if self.force_reload or not Path(self.processed_paths[0]).exists():
            self.download()

    def download(self) -> None:
        """Bring the missing recordings to ``root/raw`` and check those that are there."""
        for name in self.names:
            _published(self.root, name)

    def _settings(self) -> dict[str, Any]:
        # Without a pre_transform, whose results have the dimensions of its graphs, one file serves both spaces.
        seen = {} if self.pre_transform is None else {"space": self.space}
        return seen | {
            "recordings": {name: RECORDINGS[name] for name in self.names},
            "split": self.split,
            "past": self.past,
            "steps": self.steps,
            "stride": self.stride,
            "min_pedestrians": self.min_pedestrians,
            "radius": self.radius,
            "dtype": str(self.dtype),
        }

    def _label(self) -> str:
        return f"{self.scene}-{self.split}"

    def _make(self) -> dict[str, Tensor]:
        length = self.past + self.steps[-1]
        pieces, ids, sizes, starts = [], [], [], []
        for name, path in zip(self.names, self.raw_paths, strict=True):
            tracks = _part(checked_tracks(path, RECORDINGS[name]), self.split)
            windows = cut_windows(tracks, length, self.stride, self.min_pedestrians)
            pieces.append(tracks.pos[windows.rows])  # [M, length, 2]
            ids.append(tracks.ids[windows.rows[:, 0]])
            sizes.append(windows.size)
            starts.append(windows.start)
        number = np.repeat(np.arange(len(sizes)), [len(size) for size in sizes])
        asked = (self.past, self.steps, self.min_pedestrians)
        require(number.size > 0, "past, future and min_pedestrians", "small enough to leave a window", asked)
        pos = torch.from_numpy(np.concatenate(pieces))
        history, target = pos[:, : self.past], pos[:, [self.past - 1 + step for step in self.steps]]
        node_ptr = pointer(torch.from_numpy(np.concatenate(sizes)))
        edges = ragged_complete_graphs(node_ptr, history[:, -1], self.radius)
        motion = {
            "pos": history[:, -1],
            "vel": (history[:, -1] - history[:, -2]) / TIME_STEP,
            "history": history,
            "y": target[:, 0] if len(self.steps) == 1 else target,
        }
        return {name: value.to(self.dtype).contiguous() for name, value in motion.items()} | {
            "edge_index": edges.edge_index,
            "ids": torch.from_numpy(np.concatenate(ids)),
            "start": torch.from_numpy(np.concatenate(starts)),
            "recording": torch.from_numpy(number),
            "node_ptr": node_ptr,
            "edge_ptr": edges.ptr,
        }


def recordings(root: str | Path | None = None, names: Sequence[str] = tuple(RECORDINGS)) -> list[Trajectory]:
    """Published recordings as trajectories, missing files downloaded as for :class:`Pedestrians`.

    Args:
        root: folder of the data, as for :class:`Pedestrians`.
        names: of the recordings, by default all eight, such as ``"biwi_eth"`` or ``"crowds_zara02"``.

    Returns:
        Trajectories with ``pos`` [T, N, 2] in metres, NaN where a pedestrian is absent, and ``present`` [T, N].
    """
    for name in names:
        require_choice("names", name, RECORDINGS)
    return [recording(_published(data_root(root, "pedestrians"), name)) for name in names]


def _published(root: str | Path, name: str) -> Path:
    """Path of a recording under ``root/raw``, with the published content."""
    size, sha256 = RECORDINGS[name]
    urls = [f"{mirror}/datasets/raw/all_data/{name}.txt" for mirror in MIRRORS]
    try:
        return download(urls, Path(root, "raw", f"{name}.txt"), sha256, size=size)
    except OSError as error:
        raise ValueError(f"root {root} cannot be written ({error.strerror or error})") from error


@lru_cache(maxsize=len(RECORDINGS))
def checked_tracks(path: str, content: tuple[int, str]) -> Tracks:
    """The tracks of a file whose size and checksum have been seen to be ``content``: read once for all scenes."""
    return read_tracks(path)


def _part(tracks: Tracks, split: str) -> Tracks:
    """All rows to test on; else those of the first 80 % of the frames at which somebody is seen, or of the rest."""
    if split == "test":
        return tracks
    frames = np.unique(tracks.frame)
    cut = int(frames[len(frames) * 4 // 5])
    return tracks.between(stop=cut) if split == "train" else tracks.between(first=cut)
