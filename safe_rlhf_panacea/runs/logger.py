"""Logs of metrics (a file, weights & biases, TensorBoard, trackio), and progress bars.

Only the main process writes. The environment is never recorded.
"""

from __future__ import annotations

import argparse
import atexit
import importlib
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from safe_rlhf_panacea.configs.training import TrainConfig
from safe_rlhf_panacea.distributed import is_main_process
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import append_line, cut_half_line
from safe_rlhf_panacea.printing import printable, printable_line
from safe_rlhf_panacea.runs.run_folder import METRICS_FILE
from safe_rlhf_panacea.runs.run_record import recordable
from safe_rlhf_panacea.runs.wandb_run import PROJECT, open_run, wanted_mode

LogType = Literal["wandb", "tensorboard", "trackio", "file", "none"]
NEEDS = {"wandb": "wandb", "tensorboard": "torch.utils.tensorboard", "trackio": "trackio"}


class Logger:
    """Writes scalars by step, and prints past progress bars.

    ``log_dir/metrics.jsonl`` gets one line per step whatever else is asked for. On the main process
    ``wandb``, ``writer`` (TensorBoard's) and ``trackio`` are what is open, or None.
    """

    def __init__(
        self,
        log_type: LogType | Sequence[LogType] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        log_project: str | None = None,
        log_run_name: str | None = None,
        config: Mapping[str, Any] | argparse.Namespace | None = None,
        *,
        resume: bool = False,
    ) -> None:
        """Open the logs, on the main process.

        ``log_type`` is one or several of ``wandb``, ``tensorboard`` and ``trackio``; or ``file``,
        ``none`` or None for the file alone. All logs lie in ``log_dir``; None stands for no file.
        Project, name and ``config`` are what wandb and trackio show. With ``resume`` the run of
        wandb that was opened for this folder before goes on, and trackio's of this name.
        """
        self.log_types = [log_type or "none"] if isinstance(log_type, str | None) else log_type
        self.log_dir = None if log_dir is None else Path(log_dir).expanduser()
        self.wandb: Any = None
        self.writer: Any = None
        self.trackio: Any = None
        self._metrics: Path | None = None
        if not is_main_process():
            return
        check_log(self.log_types, log_dir)
        if log_dir is None and (needing := [one for one in self.log_types if one != "none"]):
            raise UserError(f"log_type {needing[0]} needs a log_dir")
        shown = recordable(config or {})
        if self.log_dir is not None:
            self.log_dir.mkdir(parents=True, exist_ok=True)
            self._metrics = self.log_dir / METRICS_FILE
            cut_half_line(self._metrics)
        if self.log_dir is not None and "wandb" in self.log_types:
            self.wandb = open_run(self.log_dir, log_project, log_run_name, shown, resume=resume)
        if "tensorboard" in self.log_types:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.log_dir))
        if "trackio" in self.log_types:
            import trackio

            # Its files lie where trackio keeps them (TRACKIO_DIR); no server is started.
            self.trackio = trackio.init(
                project=log_project or PROJECT,
                name=log_run_name,
                config=shown,
                resume="allow" if resume else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        atexit.register(self.close)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Record scalars under their names (``train/loss``) at a step."""
        if not is_main_process() or not metrics:
            return
        values = {k: v.item() if hasattr(v, "item") else v for k, v in metrics.items()}
        if self._metrics is not None:
            # JSON has no numbers for NaN and infinities.
            plain = {
                name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in values.items()
            }
            try:
                append_line(self._metrics, json.dumps({"step": step, **plain}, ensure_ascii=False))
            except OSError as error:  # a full disk costs a line, and not the training
                self.print(f"step {step} is missing in {self._metrics}: {error}")
        for run in (self.wandb, self.trackio):
            if run is not None:
                run.log(values, step=step)
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, global_step=step)

    def print(self, *values: object, sep: str = " ") -> None:
        """Print on the main process, above any progress bar."""
        if is_main_process():
            tqdm.write(sep.join(map(printable, values)), file=sys.stdout)

    def close(self) -> None:
        """Close the logs; twice does no harm."""
        atexit.unregister(self.close)
        for run in (self.wandb, self.trackio):
            if run is not None:
                run.finish()
        if self.writer is not None:
            self.writer.close()
        self.wandb = self.writer = self.trackio = self._metrics = None


def log_types(args: TrainConfig) -> Sequence[LogType]:
    """Where a run logs: ``--report_to``, or else ``--log_type``."""
    return args.report_to or [args.log_type]


def check_log(log_types: Sequence[LogType], log_dir: str | os.PathLike[str] | None) -> None:
    """Refuse what no logger can be opened for, before anything is loaded; changes nothing.

    A ``UserError`` names an unknown log, a missing package, a ``none`` that does not stand alone,
    an unknown mode of wandb in the environment, or a folder that cannot be written to.
    """
    for name in log_types:
        if name not in (*NEEDS, "file", "none"):
            raise UserError(f"log_type {name!r} is none of {', '.join(NEEDS)}, file and none")
    if "none" in log_types and len(log_types) > 1:
        raise UserError(f"--report_to {' '.join(log_types)}: none stands alone")
    for name in filter(NEEDS.get, log_types):
        try:
            importlib.import_module(NEEDS[name])
        except ImportError as error:
            raise UserError(
                f"log_type {name} needs the package {name}: pip install {name}"
            ) from error
    if "wandb" in log_types:
        wanted_mode()
    if log_dir is not None:
        folder = Path(log_dir).expanduser().absolute()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not (there.is_dir() and os.access(there, os.W_OK)):
            raise UserError(f"--log_dir {log_dir}: {there} is no folder that can be written to")


def progress_bar(
    iterable: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    desc: str = "",
    disable: bool = False,
) -> tqdm:
    """A bar on stderr, over ``iterable`` or moved on by ``update``, on the main process only."""
    return tqdm(
        iterable,
        total=total,
        desc=printable_line(desc),
        disable=disable or not is_main_process(),
        dynamic_ncols=True,
        # A file has no use for a line every tenth of a second.
        mininterval=0.1 if sys.stderr.isatty() else 10.0,
    )
