"""``geoeq fit``, ``validate``, ``test`` and ``predict``: LightningCLI, with a folder of its own for every run."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from geoeq.forecast.datamodule import GraphData
from geoeq.forecast.module import ForecastModule
from geoeq.forecast.recorder import Recorder
from geoeq.forecast.runs import Interrupted, checkpoint, config_number, new_folder, newest_config, remove_empty

__all__ = ["ForecastCLI", "fit_options", "quieten"]


class ForecastCLI(LightningCLI):
    """Command line of one run.

    Options beside Lightning's own: ``--name`` and ``--runs`` choose the folder ``runs/name/stamp``;
    ``--ckpt_path last`` (or ``best``) finds the newest run of that name, and ``fit`` goes on in its folder.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM.
    """

    def __init__(self, args: list[str], *, folder: Path | None = None, label: str | None = None) -> None:
        self.folder, self.label = folder, label
        self.names_data = names_data(args)
        try:
            super().__init__(
                ForecastModule,
                GraphData,
                subclass_mode_data=True,
                args=args,
                save_config_callback=SaveConfigCallback,
                save_config_kwargs={"overwrite": True},
                seed_everything_default=0,
                parser_kwargs={"exit_on_error": False},
                auto_configure_optimizers=False,
            )
        except BaseException as end:
            if self.folder is not None:
                remove_empty(self.folder)
            cause = end.__context__ if type(end) is SystemExit else end  # Lightning's way out after Ctrl-C
            if isinstance(cause, SIGTERMException):
                raise Interrupted(self.folder, signal.SIGTERM) from end
            if isinstance(cause, KeyboardInterrupt):
                raise Interrupted(self.folder, getattr(cause, "number", signal.SIGINT)) from end
            raise

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str, default="nbody", help="name of the experiment")
        if not self.names_data:
            parser.set_defaults({"data": {"class_path": "geoeq.forecast.datamodule.NBodyData"}})
        parser.add_argument("--runs", type=str, default="runs", help="folder of all runs")
        parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch; small graphs gain from none")

    def _parse_ckpt_path(self) -> None:
        """Nothing: checkpoints hold no options, and a damaged one is told apart where it is looked up."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if config.threads < 1:
            raise ValueError(f"threads must be at least 1, got {config.threads}")
        torch.set_num_threads(config.threads)
        for option, instead in (
            ("logger", "metrics.csv has the numbers"),
            ("default_root_dir", "see --name and --runs"),
        ):
            if config.trainer[option] not in (None, False):
                raise ValueError(f"trainer.{option} must be left out, got {config.trainer[option]}: {instead}")
        wanted = config.get("ckpt_path")
        if wanted is None and self.subcommand != "fit":
            wanted = "best"  # never the figures of an untrained network
        if wanted is not None:
            found = checkpoint(wanted, config.name, config.runs, weights_only=config.get("weights_only"))
            config.ckpt_path = str(found)
            if found.parent.name == "checkpoints":
                self.folder = self.folder or found.parent.parent
        if self.folder is None:
            self.folder = new_folder(config.name, config.runs)
        if self.subcommand != "fit":
            self.save_config_callback = None
        elif newest := newest_config(self.folder):  # the run keeps the configuration it was started with
            self.save_config_kwargs["config_filename"] = f"config-{config_number(newest) + 1}.yaml"
        self.label = self.label or config.name

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        assert self.folder is not None
        assert self.label is not None
        config = self._get(self.config_init, "trainer")
        shows_bar = sys.stderr.isatty() if config.enable_progress_bar is None else config.enable_progress_bar
        self.recorder = Recorder(self.folder, self.label, chatty=not shows_bar)
        # The best by validation, and the state of every epoch after its strengths were set. They are two callbacks,
        # for with save_last the last one would be written only when the best one is.
        best, last = (
            ModelCheckpoint(
                self.folder / "checkpoints",
                filename=filename,
                monitor=monitor,
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            )
            for filename, monitor in (("best", "val_loss"), ("last", None))
        )
        bar = [RichProgressBar(refresh_rate=20, leave=True)] if shows_bar else []
        own = {
            "callbacks": [*(config.callbacks or []), self.recorder, best, last, *bar],
            "default_root_dir": str(self.folder),
            "logger": False,
            "enable_progress_bar": shows_bar,
            "enable_model_summary": bool(config.enable_model_summary),
        }
        return super().instantiate_trainer(**own, **kwargs)

    def before_fit(self) -> None:
        print(f"geoeq: run folder {self.folder}", file=sys.stderr)
        if self.model.attachment:
            print(f"geoeq: {self.model.attachment}", file=sys.stderr)

    def after_predict(self) -> None:
        assert self.folder is not None
        predicted = torch.cat([part.cpu() for part in self.trainer.predict_loop.predictions])
        path = self.folder / "predictions.npz"
        temporary = path.with_name(f".{path.name}.tmp.npz")
        batch = self.datamodule.fetch("test", torch.arange(len(self.datamodule.split("test"))))
        values = {"predicted": predicted, "target": batch.y, "position": batch.pos, "first_node": batch.ptr}
        np.savez_compressed(temporary, **{name: value.numpy() for name, value in values.items()})
        temporary.replace(path)
        print(
            f"geoeq: wrote {path} with predicted, target, position of all nodes, and first_node of each graph",
            file=sys.stdout,
        )


class _Options(ForecastCLI):
    """Parses, and makes nothing of what it read."""

    def before_instantiate_classes(self) -> None: ...

    def instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...


def fit_options(args: Sequence[str]) -> Namespace:
    """What ``geoeq fit`` reads from its arguments and their configuration files."""
    return _Options(["fit", *args]).config["fit"]


def names_data(args: Sequence[str]) -> bool:
    """Whether the arguments, or a configuration among them, say which class the data are of.

    A class that they only replace would leave its defaults behind: jsonargparse keeps values that both classes take.

    >>> names_data(["fit", "--data.class_path=my.Data"]), names_data(["fit", "--data.field", "2"])
    (True, False)
    """
    words = [word for argument in args for word in argument.split("=", 1)]
    if any(word in ("--data", "--data.class_path") for word in words):
        return True
    return any(_config_names_data(path) for flag, path in pairwise(words) if flag in ("--config", "-c"))


def _config_names_data(path: str) -> bool:
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):  # the parser tells what is wrong with it
        return False
    data = config.get("data") if isinstance(config, dict) else None
    return isinstance(data, str) or (isinstance(data, dict) and "class_path" in data)


def quieten() -> None:
    """Leave out Lightning's remarks that tell the user nothing about this run."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for text in (
        ".*does not have many workers.*",
        ".*torch.jit.*",
        ".*exists and is not empty.*",
        ".*litlogger.*",
    ):
        warnings.filterwarnings("ignore", message=text)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", module="lightning.*")
