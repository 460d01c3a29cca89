"""Where metrics go: a file always, weights & biases or TensorBoard if asked for.

Only the main process writes. The environment is never recorded.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from safe_rlhf_panacea.base.distributed import is_main_process
from safe_rlhf_panacea.base.run_record import METRICS_FILE, recordable
from safe_rlhf_panacea.errors import UserError

LogType = Literal["wandb", "tensorboard", "file", "none"]


class Logger:
    """Writes scalars by step, and prints past progress bars.

    ``log_dir/metrics.jsonl`` gets one line per step whatever else is asked for. Runs of wandb
    are offline, with no account and no network, unless the environment variable ``WANDB_MODE``
    or ``config["wandb_mode"]`` says otherwise.
    """

    def __init__(
        self,
        log_type: LogType | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        log_project: str | None = None,
        log_run_name: str | None = None,
        config: Mapping[str, Any] | argparse.Namespace | None = None,
    ) -> None:
        """Open the logs.

        Args:
            log_type: ``wandb``, ``tensorboard``, or ``file``, ``none`` or None for the file
                alone.
            log_dir: folder of all logs; None for no file.
            log_project: wandb's project.
            log_run_name: wandb's name of the run.
            config: what wandb shows as the run's configuration.

        Raises:
            UserError: an unknown type, no folder for it, or its package is not installed.
        """
        log_type = log_type or "none"
        if log_type not in ("wandb", "tensorboard", "file", "none"):
            raise UserError(f"log_type {log_type!r} is none of wandb, tensorboard, file and none")
        if log_type != "none" and log_dir is None:
            raise UserError(f"log_type {log_type} needs a log_dir")
        self.log_type = log_type
        self.log_dir = None if log_dir is None else Path(log_dir).expanduser()
        self._file: Any = None
        self._wandb: Any = None
        self._tensorboard: Any = None
        if not is_main_process():
            return
        if self.log_dir is not None:
            self.log_dir.mkdir(parents=True, exist_ok=True)
            self._file = (self.log_dir / METRICS_FILE).open("a", encoding="utf-8")
        if log_type == "wandb":
            self._wandb = _open_wandb(
                self.log_dir, log_project, log_run_name, recordable(config or {})
            )
        elif log_type == "tensorboard":
            self._tensorboard = _open_tensorboard(self.log_dir)
        atexit.register(self.close)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Record scalars under their names (``train/loss``) at a step."""
        if not is_main_process() or not metrics:
            return
        values = {name: _scalar(value) for name, value in metrics.items()}
        if self._file is not None:
            line = {"step": step, **{k: _json_number(v) for k, v in values.items()}}
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()
        if self._wandb is not None:
            self._wandb.log(values, step=step)
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, global_step=step)

    def print(self, *values: object, sep: str = " ") -> None:
        """Print on the main process, above any progress bar."""
        if is_main_process():
            tqdm.write(sep.join(str(value) for value in values), file=sys.stdout)

    def print_table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        max_num_rows: int | None = None,
    ) -> None:
        """Print a table of plain text on the main process.

        Args:
            title: printed above.
            columns: heads of the columns.
            rows: one value per column each.
            max_num_rows: leave out what comes after so many rows.
        """
        cells = [list(columns), *([_cell(value) for value in row] for row in rows[:max_num_rows])]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        self.print("\n".join([title, lines[0], "-" * len(lines[0]), *lines[1:]]))

    def close(self) -> None:
        """Close the logs; twice does no harm."""
        atexit.unregister(self.close)
        if self._wandb is not None:
            self._wandb.finish()
        for writer in (self._tensorboard, self._file):
            if writer is not None:
                writer.close()
        self._wandb = self._tensorboard = self._file = None


def _open_wandb(
    log_dir: Path, project: str | None, name: str | None, config: dict[str, Any]
) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError("log_type wandb needs the package wandb: pip install wandb") from error
    settings = wandb.Settings(
        silent=True,
        # Neither the command line, the host, the user nor the checkout leave this machine.
        x_disable_meta=True,
        x_disable_stats=True,
        disable_git=True,
        disable_code=True,
        console="off",
    )
    return wandb.init(
        project=project or "safe-rlhf-panacea",
        name=name,
        dir=str(log_dir),
        config=config,
        mode=os.environ.get("WANDB_MODE") or config.get("wandb_mode") or "offline",
        settings=settings,
    )


def _open_tensorboard(log_dir: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "log_type tensorboard needs the package tensorboard: pip install tensorboard"
        ) from error
    return SummaryWriter(str(log_dir))


def _scalar(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _json_number(value: Any) -> Any:
    """NaN and infinities as strings: JSON has no numbers for them."""
    is_odd = isinstance(value, float) and not -float("inf") < value < float("inf")
    return str(value) if is_odd else value


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
