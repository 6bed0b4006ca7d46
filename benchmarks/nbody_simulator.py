"""Time of a trajectory: geoeq's batched simulator against the published one, and the three controls.

    git clone https://github.com/vgsatorras/egnn
    python benchmarks/nbody_simulator.py --peer egnn

Both run the published protocol of charged particles: 5 bodies, 5000 steps of 1e-3, a frame every 100 steps,
float64. The published simulator's own functions are called as they are; a trajectory of it is one call. geoeq
stops at the last stored frame (step 4900), since what follows is not part of the result.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import torch

from geoeq.datasets.nbody import simulate

N_STEPS, EVERY = 5000, 100


def seconds(call: Callable[[], object], repeats: int) -> list[float]:
    """Wall-clock times of the calls, after one call that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def published_simulator(path: Path) -> Callable[[], object]:
    """The function of the authors' repository that samples one trajectory."""
    folder = path / "n_body_system" / "dataset"
    if not (folder / "synthetic_sim.py").is_file():
        sys.exit(f"{folder / 'synthetic_sim.py'} not found: clone https://github.com/vgsatorras/egnn")
    matplotlib.use("Agg")  # the module imports pyplot
    sys.path.insert(0, str(folder))
    from synthetic_sim import ChargedParticlesSim

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its constants
        simulator = ChargedParticlesSim(noise_var=0.0, n_balls=5, vel_norm=0.5)
    np.random.seed(43)  # noqa: NPY002, the published code draws from the global generator

    def sample() -> object:
        with np.errstate(invalid="ignore"):  # it takes powers of squared distances rounded below zero
            return simulator.sample_trajectory(T=N_STEPS, sample_freq=EVERY)

    return sample


def controls(n_trajectories: int) -> list[tuple[str, float, float]]:
    """Name, mean squared error and published-protocol value of predictions of frame 40 from frame 30."""
    result = simulate(n_trajectories, n_steps=N_STEPS, every=EVERY, seed=43)
    pos, vel, target = result.pos[:, 30], result.vel[:, 30], result.pos[:, 40]
    factor = ((target - pos) * vel).sum() / vel.square().sum()

    def error(prediction: torch.Tensor) -> float:
        return (prediction - target).square().mean().item()

    return [
        ("x0", error(pos), 0.2748),
        ("x0 + v0", error(pos + vel), 0.1117),
        (f"x0 + {factor:.3f} v0 (least squares)", error(pos + factor * vel), 0.0860),
    ]


def main() -> None:
    """Time both, print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="folder of a clone of https://github.com/vgsatorras/egnn")
    parser.add_argument("--trajectories", type=int, default=2000, help="trajectories of one timed geoeq call")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of geoeq")
    parser.add_argument("--peer-trajectories", type=int, default=20, help="timed trajectories of the peer")
    parser.add_argument("--threads", type=int, default=None, help="threads of geoeq (all cores)")
    options = parser.parse_args()
    if options.peer is None:
        parser.error("--peer is needed: git clone https://github.com/vgsatorras/egnn, then --peer egnn")

    sample = published_simulator(options.peer)
    n = options.trajectories
    ours = seconds(
        lambda: simulate(n, n_steps=N_STEPS, every=EVERY, seed=43, n_threads=options.threads), options.repeats
    )
    theirs = statistics.median(seconds(sample, options.peer_trajectories)) * 1e3
    ours_per_trajectory = statistics.median(ours) / n * 1e3
    threads = options.threads or len(os.sched_getaffinity(0))
    print(f"Simulator, charged, 5 bodies, {N_STEPS} steps, float64, load average {os.getloadavg()[0]:.1f}:\n")
    print("| simulator | ms per trajectory (median) | ratio |\n|---|---|---|")
    print(f"| published (vgsatorras/egnn), one at a time | {theirs:.1f} | 1 |")
    print(f"| geoeq, {n} at once, {threads} threads | {ours_per_trajectory:.3f} | {theirs / ours_per_trajectory:.0f} |")
    print(f"\nControls on {n} trajectories:\n")
    print("| prediction of frame 40 from frame 30 | MSE | expected |\n|---|---|---|")
    for name, error, expected in controls(n):
        print(f"| {name} | {error:.4f} | {expected:.4f} |")


if __name__ == "__main__":
    main()
