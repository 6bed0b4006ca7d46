"""Reading ETH/UCY, and how far straight lines come on it.

    python benchmarks/pedestrians.py --data folder/with/the/eight/text/files
    git clone https://github.com/agrimgupta92/sgan
    python benchmarks/pedestrians.py --data ... --peer sgan

The first table times the processing of every split of every scene, from text files to stored graphs; with a peer, also
the test sets alone against the published loader of Social-GAN on the same files (windows of at least two pedestrians on
both sides, equal numbers checked). The second has the displacement errors of linear controls on the test windows, in
metres: average / final.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from geoeq.datasets import Pedestrians
from geoeq.datasets.pedestrians.dataset import SCENES, SPLITS, checked_tracks
from geoeq.forecast.trajectory_metrics import ade, fde

TIMES = 0.4 * torch.arange(1, 13)


def process(root: Path, splits: tuple[str, ...] = SPLITS, least: int = 1) -> list[int]:
    """Make the splits of all scenes anew, text files included; returns the numbers of pedestrians in the windows."""
    checked_tracks.cache_clear()
    made = (
        Pedestrians(root, s, split, min_pedestrians=least, force_reload=True, log=False) for s, split in pairs(splits)
    )
    return [len(data.pos) for data in made]


def pairs(splits: tuple[str, ...]) -> list[tuple[str, str]]:
    """Scene and split."""
    return [(scene, split) for scene in SCENES for split in splits]


def published_loader(clone: Path, root: Path) -> Callable[[], list[int]]:
    """Calls the loader of the authors' repository on the test recordings of each scene."""
    folder = clone / "sgan" / "data"
    if not (folder / "trajectories.py").is_file():
        sys.exit(f"{folder / 'trajectories.py'} not found: clone https://github.com/agrimgupta92/sgan")
    sys.path.insert(0, str(folder))
    from trajectories import TrajectoryDataset

    for scene, names in SCENES.items():
        (root / "peer" / scene).mkdir(parents=True)
        for name in names:
            shutil.copy(root / "raw" / f"{name}.txt", root / "peer" / scene)
    return lambda: [len(TrajectoryDataset(str(root / "peer" / scene)).obs_traj) for scene in SCENES]


def seconds(call: Callable[[], list[int]]) -> tuple[float, float, list[int]]:
    """Seconds by the clock and of the processor, and the result of a call."""
    clock, processor = time.perf_counter(), time.process_time()
    result = call()
    return time.perf_counter() - clock, time.process_time() - processor, result


def medians(measured: list[tuple[float, float, list[int]]]) -> tuple[float, float]:
    """Of both times of several calls."""
    return statistics.median(row[0] for row in measured), statistics.median(row[1] for row in measured)


def learned(root: Path, scene: str) -> Callable[[Pedestrians], Tensor]:
    """The best linear map of the seven past displacements to the future ones on the training windows."""
    train = Pedestrians(root, scene, "train", log=False)
    inputs = (train.history - train.pos[:, None])[:, :-1].flatten(1).double()
    weight = torch.linalg.lstsq(inputs, (train.y - train.pos[:, None]).flatten(1).double()).solution

    def forecast(data: Pedestrians) -> Tensor:
        past = (data.history - data.pos[:, None])[:, :-1].flatten(1).double()
        return data.pos[:, None] + (past @ weight).unflatten(1, (12, 2)).float()

    return forecast


def line(data: Pedestrians) -> Tensor:
    """The straight line at constant speed that fits the past positions best, continued."""
    times = 0.4 * torch.arange(-7, 1)
    columns = torch.stack([torch.ones(8), times], 1)
    fit = torch.linalg.pinv(columns) @ data.history  # [n, 2, 2]
    return torch.stack([torch.ones(12), TIMES], 1) @ fit


CONTROLS: dict[str, Callable[[Pedestrians], Tensor]] = {
    "stays": lambda data: data.pos[:, None].expand(-1, 12, -1),
    "keeps the last velocity": lambda data: data.pos[:, None] + TIMES[:, None] * data.vel[:, None],
    "keeps the mean velocity": lambda data: (
        data.pos[:, None] + TIMES[:, None] * ((data.pos - data.history[:, 0]) / 2.8)[:, None]
    ),
    "straight line, least squares": line,
}


def errors_of_controls(root: Path, least: int) -> None:
    """Print the table of the linear controls."""
    rows: dict[str, list[tuple[float, float]]] = {}
    for scene in SCENES:
        data = Pedestrians(root, scene, "test", min_pedestrians=least, log=False)
        for name, forecast in CONTROLS.items() | {("linear map, learned", learned(root, scene))}:
            predicted = forecast(data)
            rows.setdefault(name, []).append((ade(predicted, data.y).item(), fde(predicted, data.y).item()))
    print(f"\nADE / FDE in metres, test windows with at least {least} pedestrian(s):\n")
    print(f"| control | {' | '.join(SCENES)} | mean |\n|---{'|---' * (len(SCENES) + 1)}|")
    for name in [*CONTROLS, "linear map, learned"]:
        cells = [*rows[name], tuple(statistics.mean(column) for column in zip(*rows[name]))]
        print(f"| {name} | {' | '.join(f'{a:.3f} / {b:.3f}' for a, b in cells)} |")


def main() -> None:
    """Time the processing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the published text files")
    parser.add_argument("--peer", type=Path, help="folder of a clone of https://github.com/agrimgupta92/sgan")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(options.data, root / "raw")
        process(root, ("test",))
        clock, processor = medians([seconds(lambda: process(root)) for _ in range(options.repeats)])
        print("| processing | seconds (median) | of the processor | ratio of these |\n|---|---|---|---|")
        print(f"| geoeq, 5 scenes x 3 splits, stored | {clock:.2f} | {processor:.2f} | |")
        if options.peer is not None:
            load = published_loader(options.peer, root)
            ours, theirs = [], []
            for _ in range(options.repeats):
                ours.append(seconds(lambda: process(root, ("test",), least=2)))
                theirs.append(seconds(load))
            assert ours[0][2] == theirs[0][2], "both sides must find the same windows"
            (mine, mine_cpu), (other, other_cpu) = medians(ours), medians(theirs)
            print(f"| Social-GAN's loader, 5 test sets, in memory | {other:.2f} | {other_cpu:.2f} | 1 |")
            print(f"| geoeq, 5 test sets, stored | {mine:.2f} | {mine_cpu:.2f} | {other_cpu / mine_cpu:.0f} |")
        for least in (1, 2):
            errors_of_controls(root, least)


if __name__ == "__main__":
    main()
