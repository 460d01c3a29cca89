"""The order in which an epoch visits the data, and resuming within an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from safe_rlhf_panacea.errors import UserError


class ResumableSampler(Sampler[int]):
    """One process's share of an epoch, the same number of indices on every process.

    The order depends on seed and epoch alone. Where the data does not divide by the
    processes, the epoch is filled up from its own beginning.

    ``position`` counts the indices handed out in the current epoch, so a data loader that
    reads ahead (``num_workers`` above 0) is ahead of the training.
    """

    def __init__(
        self,
        dataset_len: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Describe the data and this process's place among ``world_size`` processes."""
        if dataset_len < 1:
            raise UserError("an empty data set cannot be sampled")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not among {world_size} processes")
        self.dataset_len = dataset_len
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.position = 0
        self.began_anew = False  # resumed at the very end of an epoch
        self._start = 0  # where the next iteration begins: 0 unless a run resumes

    def __len__(self) -> int:
        """The number of indices in a whole epoch on this process, also after a resume."""
        return math.ceil(self.dataset_len / self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; nothing changes if it is the present one."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.position = self._start = 0

    def indices(self) -> list[int]:
        """This process's share of the present epoch."""
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.dataset_len)
        else:
            order = np.arange(self.dataset_len)
        filled = np.resize(order, len(self) * self.world_size)  # repeats from the beginning
        return filled[self.rank :: self.world_size].tolist()

    def __iter__(self) -> Iterator[int]:
        start, self._start = self._start, 0
        self.position = start
        for index in self.indices()[start:]:
            self.position += 1
            yield index

    def state_dict(self) -> dict[str, int]:
        """The place in the epoch, and the size, seed and processes that it belongs to."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "dataset_len": self.dataset_len,
            "seed": self.seed,
            "world_size": self.world_size,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where ``state`` was taken; the next iteration yields what was left.

        Raises:
            UserError: the state belongs to other data, another seed or another world size.
        """
        for key, what in (
            ("dataset_len", "data set size"),
            ("seed", "seed"),
            ("world_size", "number of processes"),
        ):
            if state[key] != getattr(self, key):
                raise UserError(
                    f"the checkpoint's {what} is {state[key]}, this run's {getattr(self, key)}: "
                    "a run resumes with what it was started with"
                )
        self.epoch = int(state["epoch"])
        self.position = self._start = int(state["position"])
        self.began_anew = self.position == len(self)
