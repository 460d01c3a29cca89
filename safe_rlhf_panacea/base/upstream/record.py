"""A run's record beside Safe-RLHF's own logs."""

from __future__ import annotations

from safe_rlhf_panacea.base.clock import TrainingClock
from safe_rlhf_panacea.base.distributed import is_main_process
from safe_rlhf_panacea.base.run_record import prepare_output_dir, write_run_record


class Recorded:
    """Claims the output folder, as the port does, and records the run in it."""

    def init_logger(self) -> None:
        """Record the run, then open Safe-RLHF's logger."""
        self.clock = TrainingClock()
        args = self.args
        if is_main_process():
            prepare_output_dir(args.output_dir, overwrite=args.overwrite)
            write_run_record(args.output_dir, args, {"program": args.program})
        super().init_logger()
