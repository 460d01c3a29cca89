"""What every training program does around its trainer: device, seeds, models, the record."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from safe_rlhf_panacea.base.engine import get_deepspeed_eval_config, get_deepspeed_train_config
from safe_rlhf_panacea.distributed import (
    get_world_size,
    init_distributed,
    is_main_process,
    refusing_together,
)
from safe_rlhf_panacea.io import naming
from safe_rlhf_panacea.models import load_pretrained_models
from safe_rlhf_panacea.models.loading import check_positions
from safe_rlhf_panacea.runs.logger import check_log, log_types
from safe_rlhf_panacea.runs.resuming import latest_step
from safe_rlhf_panacea.runs.run_folder import (
    RUN_FILE,
    check_free,
    how_to_go_on,
    unlock_folder,
    withdraw_claim,
)
from safe_rlhf_panacea.runs.run_record import finish_run_record

if TYPE_CHECKING:
    from safe_rlhf_panacea.base.trainer import TrainerBase
    from safe_rlhf_panacea.configs.training import TrainConfig


def prepare_run(args: TrainConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check the output folder, start the processes, seed.

    Nothing is written yet: the trainer claims the folder once its models and data are loaded.
    Returns the training and evaluation configurations of DeepSpeed; a ``UserError`` says that the
    folder holds a run already, or that logs cannot be written.
    """
    args.check_files()
    if args.tf32:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    init_distributed(args.local_rank)
    with refusing_together():
        if is_main_process():
            check_free(args.output_dir, overwrite=args.overwrite, resume=args.resume)
            check_log(log_types(args), args.log_dir)
            if args.resume:
                latest_step(args.output_dir, vars(args))
    random.seed(args.seed)
    np.random.seed(args.seed % 2**32)
    torch.manual_seed(args.seed)
    world, rows = get_world_size(), args.per_device_train_batch_size
    common: dict[str, Any] = {"zero_stage": args.zero_stage, "fp16": args.fp16, "bf16": args.bf16}
    train_config = get_deepspeed_train_config(
        rows, args.gradient_accumulation_steps, world, offload=args.offload, **common
    )
    return train_config, get_deepspeed_eval_config(world, **common)


def model_dtype(args: TrainConfig) -> torch.dtype:
    """The type in which weights are loaded."""
    if args.bf16:
        return torch.bfloat16
    return torch.float16 if args.fp16 else torch.float32


def load_model(
    args: TrainConfig, path: Any, padding_side: Literal["left", "right"] = "right", **kwargs: Any
) -> tuple[Any, Any]:
    """A model in the run's precision, by default a causal language model, and its tokenizer.

    ``path`` is a name, a folder or a ``LoadedModel``; ``kwargs`` are ``load_pretrained_models``'s.
    A ``UserError``: the model has fewer positions than ``max_length``, or cannot be loaded.
    """
    model, tokenizer = load_pretrained_models(
        path,
        model_max_length=args.max_length,
        padding_side=padding_side,
        trust_remote_code=args.trust_remote_code,
        dtype=model_dtype(args),
        **kwargs,
    )
    check_positions(model, args.max_length, path)
    return model, tokenizer


def run_to_end(trainer: TrainerBase) -> None:
    """Train, save, close the logs, and record, where there is a record, that it is finished.

    A run that fails before its first step leaves no record.
    """
    folder = trainer.args.output_dir
    try:
        trainer.clock.start()
        with naming(folder):
            trainer.train()
            seconds = trainer.clock.seconds
            trainer.save()
        trainer.logger.close()
        with refusing_together():
            if is_main_process() and (Path(folder) / RUN_FILE).exists():
                finish_run_record(folder, seconds)
    except BaseException as error:
        if trainer.global_step == 0:
            trainer.logger.close()
            withdraw_claim(folder)
        elif isinstance(error, KeyboardInterrupt) and hasattr(trainer.args, "resume"):
            how = f"{folder}: {how_to_go_on(Path(folder))}, --overwrite begins anew"
            raise KeyboardInterrupt(how) from None
        raise
    finally:
        unlock_folder(folder)
