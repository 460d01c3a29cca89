"""What the tokenised data sets share: the rows of a run, their tokens, batches and order."""

from __future__ import annotations

import abc
import copy
import hashlib
import json
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from safe_rlhf_panacea.data import raw
from safe_rlhf_panacea.data.raw import LeaveOut, RawSample
from safe_rlhf_panacea.data.specs import DatasetSpec, Specs, read_specs
from safe_rlhf_panacea.data.template import AUTO, CUT, ChatTemplate
from safe_rlhf_panacea.distributed import is_main_process
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.printing import say

Sample = dict[str, Any]
LOGGER = logging.getLogger(__name__)
IGNORE_INDEX = -100  # a label that no loss counts
ROWS_PER_CALL = 1024  # rows given to the tokenizer at once: enough to use all its threads


class Row(NamedTuple):
    """A raw sample of a run."""

    where: str  # it comes from, for messages
    sample: RawSample
    data_set: int = 0  # the number of its data set among those of the run
    kind: str = ""  # of that data set
    labels: Sequence[Any] = ()  # by objective, where the tokenised data set has objectives


@contextmanager
def refusing(row: Row) -> Iterator[None]:
    """Errors that are raised inside begin with the place of the row."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{row.where}: {error}") from None


def select_rows(specs: list[DatasetSpec], seed: int) -> list[Row]:
    """Read the data sets and draw the rows that their proportions ask for, without replacement.

    One line on stderr says which format was recognised by a data set's columns.
    """
    selected = []
    seeds = np.random.SeedSequence(seed).spawn(len(specs))
    for number, (spec, child) in enumerate(zip(specs, seeds, strict=True)):
        data = spec.load()
        if (size := len(data)) == 0:
            raise UserError(f"{spec}: no rows")
        copies, rest = divmod(spec.count(size), size)
        drawn = np.random.default_rng(child).choice(size, size=rest, replace=False)
        indices = [*range(size)] * copies + sorted(drawn.tolist())
        samples: Any = data
        if spec.objective is not None:
            samples = raw.for_objective(data, spec.objective, str(spec))
        selected += [Row(data.where(i), samples[i], number, data.KIND) for i in indices]
        if data.seen and is_main_process():
            labels = {name for sample in samples for name in raw.labels_of(sample)} - {raw.CHOSEN}
            names = ", ".join(sorted(labels))
            what = "texts" if data.KIND == "supervised" else data.KIND
            for_whom = f" for {names}" if names and data.KIND == "pairs" else ""
            say(f"{spec}: {data.seen}, {size} {what}{for_whom}", file=sys.stderr)
    return selected


def pad(
    sequences: list[torch.Tensor], value: int, side: str = "right"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad B sequences, size = (L_b,) each; returns ids and boolean mask, size = (B, L) each."""
    ids = pad_sequence(sequences, batch_first=True, padding_value=value, padding_side=side)
    # Masks come from lengths, so the padding token may equal any other.
    lengths = torch.tensor([sequence.numel() for sequence in sequences])  # size = (B,)
    mask = torch.arange(ids.size(1)) < lengths.unsqueeze(1)  # size = (B, L)
    return ids, mask.flip(1) if side == "left" else mask


def packed(ids: list[int]) -> np.ndarray:
    """Token ids, size = (L,), stored in 4 bytes each; a sample has them as int64."""
    return np.array(ids, dtype=np.int32)


class TokenizedDataset(Dataset[Sample]):
    """Base of the tokenised data sets; a subclass says which samples are made of a row's tokens.

    All rows are tokenised when the data set is made; their text is not kept.

    Attributes:
        template: how conversations are written.
        left_out: how many rows are no sample, by reason.
        spelling: rows in which the text of a user or of an answer spells a control token.
        fingerprint: a hash of the raw samples, in their order; the parts of a split share it.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ()  # of a raw sample: the answers that follow the prompt

    def __init__(
        self, specs: Specs, tokenizer: Any, seed: int = 0, *, template: ChatTemplate | None = None
    ) -> None:
        """Read, check and tokenise what ``read_specs`` takes; a ``UserError`` says what is wrong.

        The tokenizer's ``model_max_length`` bounds every sequence. ``seed`` is that of the random
        subset where a proportion asks for one. The template is ``auto`` unless given.
        """
        for role in ("eos", "pad"):
            if getattr(tokenizer, f"{role}_token_id") is None:
                raise UserError(f"the tokenizer has no {role} token; give it one before the data")
        self.tokenizer, self.seed = tokenizer, seed
        self.template = template or ChatTemplate.of(AUTO, tokenizer)
        self.max_length: int = tokenizer.model_max_length
        parsed = read_specs(specs)
        self.source = ", ".join(map(str, parsed))
        self.left_out: Counter[str] = Counter()
        self.spelling = 0
        rows = select_rows(parsed, seed)
        digest = hashlib.sha256()
        for row in rows:
            for field in ("input", *self.FIELDS):
                if field not in row.sample:
                    told = f"{row.where}: {type(self).__name__} needs {field!r}"
                    raise UserError(f"{told}, but the row has only {', '.join(row.sample)}")
            sample = json.dumps(row.sample, sort_keys=True, default=str)
            digest.update(f"{sample}\n".encode("ascii"))
        self.fingerprint = digest.hexdigest()
        self._samples: list[Sample] = []
        self.encode(rows)
        self._rows = list(range(len(self._samples)))
        if self.spelling and is_main_process():
            told = f"{self.source}: {self.spelling} of {len(rows)} rows spell control tokens"
            LOGGER.warning("%s, which are read as text (--chat_template raw reads tokens)", told)

    def encode(self, rows: list[Row]) -> None:
        """Tokenise the rows, truncated, and store their samples; rows without room are left out."""
        for start in range(0, len(rows), ROWS_PER_CALL):
            chunk = rows[start : start + ROWS_PER_CALL]
            prompts = [self.prompt(row) for row in chunk]
            rests: list[list[str]] = [[] for _ in self.FIELDS]
            for row, prompt in zip(chunk, prompts, strict=True):
                fields: Mapping[str, Any] = row.sample
                turns, system = fields["input"], fields.get("system")
                for field, rest in zip(self.FIELDS, rests, strict=True):
                    with refusing(row):
                        rest.append(self.template.rest(prompt, turns, fields[field], system))
            written = zip(prompts, *rests, strict=True)
            self.spelling += sum(any(CUT in text for text in texts) for texts in written)
            encoded = self.template.encode(prompts, *rests)
            for row, prompt_ids, *texts in zip(chunk, *encoded, strict=True):
                try:
                    if len(prompt_ids) >= self.max_length:
                        raise LeaveOut(f"prompt of max_length {self.max_length} tokens or more")
                    cut = [text[: self.max_length] for text in texts]
                    self._samples.append(self.make(row, prompt_ids, *cut))
                except LeaveOut as reason:
                    self.left_out[str(reason)] += 1
        total, told = len(self._samples) + self.left_out.total(), raw.reasons(self.left_out)
        if not self._samples:
            told = f"{self.source}: nothing left of {total} rows: {told}"
            raise UserError(f"{told}; raise max_length or shorten the prompts")
        if told and is_main_process():
            LOGGER.warning("%s: left out of %d rows: %s", self.source, total, told)

    @abc.abstractmethod
    def make(self, row: Row, prompt: list[int], *texts: list[int]) -> Sample:
        """The sample of a row: its prompt's ids, and those of the prompt with each answer.

        ``LeaveOut`` says why the row is none. Ids are ``packed``.
        """

    def prompt(self, row: Row) -> str:
        """The row's prompt in the template."""
        with refusing(row):
            return self.template.prompt(row.sample["input"], row.sample.get("system"))

    @staticmethod
    @abc.abstractmethod
    def collate(samples: list[Any], pad_token_id: int) -> Sample:
        """A batch of samples."""

    def get_collator(self) -> Callable[[list[Any]], Sample]:
        """What makes a batch of samples."""
        return partial(self.collate, pad_token_id=self.tokenizer.pad_token_id)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        return {
            name: torch.from_numpy(value).long() if isinstance(value, np.ndarray) else value
            for name, value in self._samples[self._rows[index]].items()
        }

    def split_train_test(
        self, split_ratio: float = 0.2, shuffle: bool = True, seed: int | None = None
    ) -> tuple[TokenizedDataset, TokenizedDataset]:
        """Two data sets over the same tokens that share no sample.

        ``split_ratio`` is the second one's share; a ``UserError`` says that one would be empty.
        """
        count = len(self)
        held_out = round(count * split_ratio)
        if not 0 < held_out < count:
            raise UserError(
                f"a split ratio of {split_ratio} leaves {held_out} of {count} rows for testing; "
                "both parts need at least one"
            )
        order = np.arange(count)
        if shuffle:
            seed = self.seed if seed is None else seed
            order = np.random.default_rng(seed).permutation(count)
        train, test = copy.copy(self), copy.copy(self)
        train._rows = [self._rows[index] for index in order[:-held_out]]
        test._rows = [self._rows[index] for index in order[-held_out:]]
        return train, test


class ResumableSampler(Sampler[int]):
    """One process's share of an epoch, the same number of indices on every process.

    The order depends on seed and epoch alone. Where the data does not divide by the processes, the
    epoch is filled up from its own beginning. ``position`` counts the indices handed out in the
    current epoch, so a data loader that reads ahead is ahead of the training.
    """

    def __init__(
        self,
        dataset_len: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if dataset_len < 1:
            raise UserError("an empty data set cannot be sampled")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not among {world_size} processes")
        self.dataset_len, self.seed, self.shuffle = dataset_len, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = self.position = 0
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
        order = np.arange(self.dataset_len)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.dataset_len)
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
        names = ("epoch", "position", "dataset_len", "seed", "world_size")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where ``state`` was taken, with the same data, seed and processes."""
        told = {"dataset_len": "data set size", "world_size": "number of processes", "seed": "seed"}
        for key, what in told.items():
            if state[key] != getattr(self, key):
                raise UserError(
                    f"the checkpoint's {what} is {state[key]}, this run's {getattr(self, key)}: "
                    "a run resumes with what it was started with"
                )
        self.epoch = int(state["epoch"])
        self.position = self._start = int(state["position"])
        self.began_anew = self.position == len(self)
