"""Clocks, turns, peak memory and the line about the machine, for the scripts beside this one."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

Action = Callable[[], object]
Clock = Callable[[], float]


def add_options(parser: argparse.ArgumentParser, *, rounds: int) -> None:
    """The options that every script has."""
    parser.add_argument("--rounds", type=int, default=rounds, help="timed calls of each variant")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: time of the process, for a busy machine"
    )


def start(args: argparse.Namespace) -> tuple[torch.device, Clock]:
    """Device and clock; one thread, a fixed seed, and memory that glibc keeps, as it does in any longer run."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.ones(6_000_000)  # freed at once: from then on freed memory is not returned at every step
    device = torch.device(args.device)

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    clocks = {"wall": time.perf_counter, "cpu": time.process_time}
    return device, synchronised if device.type == "cuda" else clocks[args.clock]


def percentiles(actions: dict[str, Action], rounds: int, clock: Clock) -> dict[str, float]:
    """20th percentile of the milliseconds of each action.

    Actions take turns, so that a busy machine hurts all alike; each is called once more before the clock starts,
    since what ran before has emptied the caches.
    """
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        for _ in range(3):
            action()
    for _ in range(rounds):
        for name, action in actions.items():
            action()
            begin = clock()
            action()
            taken[name].append(1e3 * (clock() - begin))
    return {name: sorted(values)[len(values) // 5] for name, values in taken.items()}


def peak_memory(action: Action, device: torch.device) -> float:
    """MiB that an action holds at most, beyond what was there before it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        action()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = action()
    del kept
    held = peak = 0
    events = record.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


def machine(device: torch.device, *packages: str) -> str:
    """Processor or GPU, versions and threads, for the table."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    installed = []
    for package in ("torch", *packages):
        try:
            installed.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    threads = f"{torch.get_num_threads()} thread(s), {torch.backends.cpu.get_cpu_capability()}"
    return ", ".join([name, f"Python {platform.python_version()}", *installed, threads])


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(columns: Iterable[str]) -> str:
    """Head of a Markdown table."""
    names = list(columns)
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"
