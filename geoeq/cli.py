"""The command ``geoeq``: fit, validate, test, predict and compare."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import FrameType

import geoeq
from geoeq.forecast.runs import Interrupted

__all__ = ["main"]

COMMANDS = {
    "fit": "train one network; leaves runs/NAME/STAMP with checkpoints, tables and report.html",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on the test split: error, equivariance, levels",
    "predict": "write the predictions of a checkpoint for the test split",
    "compare": "train the same network exact, soft and free, and print one table",
    "bench": "soft: every way to treat symmetry on tasks whose symmetry is known, in one table",
}
EXAMPLES = """examples:
  geoeq compare --config configs/nbody.yaml
  geoeq fit --config configs/nbody.yaml --data.field 2.0 --model.lr 5e-4
  geoeq fit --config configs/nbody.yaml --ckpt_path last       go on after an interruption
  geoeq test --config configs/nbody.yaml --ckpt_path best
  geoeq fit --help                                             every option
  geoeq bench soft --tasks "inertia z" --methods EMLP Evidence --seeds 0 1
"""
SIGNALLED = 128  # and the number of the signal, as shells count
WRONG = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code.

    That is 0, 2 for anything wrong with what was given, 130 after Ctrl-C, and 143 after SIGTERM.

    What is wrong is told in one line on stderr; ``GEOEQ_TRACEBACK=1`` shows where it was found.
    """
    args = list(sys.argv[1:] if arguments is None else arguments)
    if not args or args[0] in ("-h", "--help"):
        print("usage: geoeq COMMAND [OPTIONS]\n")
        print("\n".join(f"  {name:9} {text}" for name, text in COMMANDS.items()) + "\n\n" + EXAMPLES, end="")
        return 0
    if args[0] == "--version":
        print(f"geoeq {geoeq.__version__}")
        return 0
    if args[0] not in COMMANDS:
        return _fail(f"command must be one of {', '.join(COMMANDS)}, got {args[0]}")
    if args[0] == "bench":  # SIGTERM ends it as any program, and its processes would inherit a handler
        return _guarded(args)
    with _terminable():
        return _guarded(args)


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise the first SIGTERM as Ctrl-C is; Lightning alone would end the training as if it were done."""
    if threading.current_thread() is not threading.main_thread():  # which alone is told of signals
        yield
        return
    received = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal received
        # ``timeout`` may send it twice, and the second one must not cut off what the first one has to tell.
        if not received:
            received = True
            raise Interrupted(number=number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _guarded(args: Sequence[str]) -> int:
    try:
        return _run(args[0], [_shipped(a) for a in args[1:]])
    except KeyboardInterrupt as end:
        return _interrupted(args, end)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning's way out after Ctrl-C
            return _interrupted(args, end.__context__)
        return int(end.code or 0) if not isinstance(end.code, str) else _fail(end.code)
    except argparse.ArgumentError as error:
        if os.environ.get("GEOEQ_TRACEBACK"):
            raise
        return _fail(_reason(str(error)))
    except (ValueError, OSError, TypeError) as error:
        if os.environ.get("GEOEQ_TRACEBACK"):
            raise
        return _fail(str(_own(error)))
    except ModuleNotFoundError as error:
        return _fail(f"{error.name} is not installed; pip install 'geoeq[train]'")


def _run(command: str, args: list[str]) -> int:
    if command == "bench":
        return _bench(args)
    if (here := os.getcwd()) not in sys.path:  # console scripts lack it; last, so that it hides no installed package
        sys.path.append(here)
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from geoeq.forecast.command import ForecastCLI, quieten

    quieten()
    try:
        if command == "compare":
            return _compare(args)
        cli = ForecastCLI([command, *args])
    except MisconfigurationException as error:  # a plain Exception: an accelerator that is not there, and the like
        raise ValueError(str(error)) from error
    print(f"geoeq: {command} done, see {cli.folder}", file=sys.stderr)
    return 0


def _bench(args: list[str]) -> int:
    if args[:1] != ["soft"]:
        raise ValueError(f"bench must be followed by soft, got {' '.join(args[:1]) or 'nothing'}")
    from geoeq.bench.soft import main as bench_soft

    bench_soft(args[1:])
    return 0


def _compare(args: list[str]) -> int:
    from geoeq.forecast.compare import MODES, compare

    parser = argparse.ArgumentParser("geoeq compare", description=COMMANDS["compare"], exit_on_error=False)
    parser.add_argument("--modes", nargs="+", default=list(MODES), help="of exact, soft, free")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="one training per mode and seed")
    parser.add_argument("--name", help="name of the experiment; that of the configuration by default")
    parser.add_argument("--runs", help="folder of all runs; that of the configuration by default")
    own, rest = parser.parse_known_args(args)
    compare(rest, modes=own.modes, seeds=own.seeds, name=own.name, runs=own.runs)
    return 0


def _shipped(argument: str) -> str:
    """A configuration of the package, where ``configs/NAME.yaml`` is asked for and no such file lies here."""
    head, sign, value = argument.rpartition("=")
    path = Path(value)
    if path.suffix not in (".yaml", ".yml") or path.exists() or len(path.parts) != 2 or path.parts[0] != "configs":
        return argument
    inside = files("geoeq") / "configs" / path.name
    return f"{head}{sign}{inside}" if inside.is_file() else argument


def _interrupted(args: Sequence[str], end: KeyboardInterrupt) -> int:
    """Tell how to go on with the training: its file by name, for "last" may be that of an older run."""
    cause = end if isinstance(end, Interrupted) else Interrupted()
    folder = cause.folder
    last = None if folder is None else folder / "checkpoints" / "last.ckpt"
    hint = ""
    if args[0] == "fit" and last is not None and last.is_file():
        named = [before == "--ckpt_path" for before in ["", *args]]
        kept = [a for a, value in zip(args, named, strict=False) if not value and not a.startswith("--ckpt_path")]
        hint = f"; go on with: {shlex.join(['geoeq', *kept, f'--ckpt_path={last}'])}"
    elif args[0] == "fit":
        hint = "; nothing saved yet"
    print(f"geoeq: interrupted{hint}", file=sys.stderr)
    return SIGNALLED + cause.number


def _reason(message: str) -> str:
    """What is wrong with a value of a class of the user's choice, without the other types that it could have had."""
    found = re.search(
        r'Parser key "([\w.]+)".*?class_path \'([\w.]+)\':\s*(.*?)\s*(?:- Expected a|$)', message, re.DOTALL
    )
    if found is None:
        return message
    key, name, reason = found.groups()
    return f"{key}: {name.rpartition('.')[2]}: {reason}"


def _own(error: BaseException) -> BaseException:
    """What a class said of its options, without that the value is of none of the other types either."""
    while "Union subtypes" in str(error) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _fail(message: str) -> int:
    print(f"geoeq: error: {' '.join(message.split())}", file=sys.stderr)
    return WRONG
