"""Raw data sets: text samples behind a name."""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterable, Iterator, Mapping
from numbers import Real
from typing import Any, ClassVar, TypedDict

import numpy as np
from torch.utils.data import Dataset, Subset

from safe_rlhf_panacea.errors import UserError


class RawSample(TypedDict, total=False):
    """One sample as text.

    Prompts have ``input``, supervised text ``input`` and ``answer``, pairs ``input``,
    ``answer``, ``other_answer`` and their labels.
    """

    input: str | list[str]
    """The user's text, or turns that alternate user, assistant, ..., user."""
    system: str
    """The system prompt, where there is one."""
    answer: str
    """The assistant's answer."""
    other_answer: str
    """Another answer to the same input."""
    labels: dict[str, int | None]
    """Per objective, which answer is better: 0 ``answer``, 1 ``other_answer``, None unknown."""
    better: bool
    """Safe-RLHF's way to say that ``answer`` is better for the objective ``helpful``."""
    safer: bool
    """Safe-RLHF's way to say that ``answer`` is better for the objective ``harmless``."""


AUTO = "auto"  # the data set whose columns say what it holds
CHOSEN = "chosen"  # the label of pairs that do not name the objective of their label
# Safe-RLHF's flags of a sample, and its fields of a row: the objectives that they label.
SAFE_RLHF_FLAGS = {"better": "helpful", "safer": "harmless"}
SAFE_RLHF_LABELS = {"better_response_id": "helpful", "safer_response_id": "harmless"}
# The fields of a sample that belong to its answers, not to its prompt.
OF_ANSWERS = frozenset({"answer", "other_answer", "labels", "better", "safer"})
# Reward functions get arguments of their own by these names, so no column of prompts has one.
TAKEN = frozenset(
    {"input", "turns", "prompts", "responses", "prompt_ids", "response_ids", "response_lengths"}
    | {"completions", "completion_ids", "step", "trainer_state", "log_metric", "log_extra"}
)


def without(sample: Mapping[str, Any], names: Collection[str]) -> Any:
    """A sample or a row without some fields; Any, as types cannot follow computed names."""
    return {name: value for name, value in sample.items() if name not in names}


def label_value(value: Any, field: str) -> int | None:
    """0 or 1, the index of the better response, or None where it is unknown."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)  # NumPy's too
    if value is None or (is_number and value != value):  # tables write a missing number as NaN
        return None
    if not is_number or value not in (0, 1):
        raise UserError(f"{field} is {value!r}; it is 0 or 1, the better response, or null")
    return int(value)


def labels_of(sample: RawSample, where: str = "a pair") -> dict[str, int | None]:
    """Which answer of a pair is better, by objective, also by Safe-RLHF's flags.

    Raises:
        UserError: a label is not 0, 1 or None, or a flag is not true or false; the message begins
            with ``where``.
    """
    given = sample.get("labels", {})
    labels = {name: label_value(value, f"{where}: label {name!r}") for name, value in given.items()}
    for flag, objective in SAFE_RLHF_FLAGS.items():
        value = sample.get(flag, True)
        if value not in (True, False):
            raise UserError(f"{where}: {flag} is {value!r}; it is true or false")
        if flag in sample:
            labels.setdefault(objective, 0 if value else 1)
    return labels


def labels_for(sample: RawSample, *objectives: str, where: str = "a pair") -> list[int | None]:
    """The labels of some objectives; a single objective may take the label ``CHOSEN``."""
    labels = labels_of(sample, where)
    if len(objectives) == 1 and CHOSEN in labels:
        labels.setdefault(objectives[0], labels[CHOSEN])
    return [labels.get(name) for name in objectives]


def for_objective(samples: Iterable[RawSample], objective: str, told: str) -> list[RawSample]:
    """Pairs with the labels of one objective only; ``told`` is what messages call the data.

    Raises:
        UserError: there is no such label, or a sample is no pair.
    """
    result: list[RawSample] = []
    others: set[str] = set()
    for sample in samples:
        if "other_answer" not in sample:
            raise UserError(f"{told}: no pairs, so {objective!r} has no label there")
        (label,) = labels_for(sample, objective)
        result.append({**without(sample, SAFE_RLHF_FLAGS), "labels": {objective: label}})
        others |= labels_of(sample).keys()
    if all(sample["labels"][objective] is None for sample in result):
        there = ", ".join(sorted(others)) or "none"
        raise UserError(f"{told}: no pair has a label for {objective!r}; labels there: {there}")
    return result


def split_indices(
    rows: int, split_ratio: float, shuffle: bool, seed: int
) -> tuple[list[int], list[int]]:
    """Row numbers of the training and of the test part.

    Raises:
        UserError: one of the two parts would be empty.
    """
    held_out = round(rows * split_ratio)
    if not 0 < held_out < rows:
        raise UserError(
            f"a split ratio of {split_ratio} leaves {held_out} of {rows} rows for testing; "
            "both parts need at least one"
        )
    order = np.random.default_rng(seed).permutation(rows) if shuffle else np.arange(rows)
    indices = order.tolist()
    return indices[:-held_out], indices[-held_out:]


class RawDataset(Dataset[RawSample]):
    """Base of all raw data sets; a subclass with a ``NAME`` registers itself.

    Its constructor takes ``path: str | None = None``, what stands after the second colon of
    ``name:proportion:path``.
    """

    NAME: ClassVar[str]
    """The name on the command line."""
    ALIASES: ClassVar[Collection[str]] = ()
    """Other names of the same data set."""
    KIND: ClassVar[str] = ""
    """What its samples are: ``pairs``, ``prompts`` or ``supervised``."""
    OBJECTIVES: ClassVar[tuple[str, ...]] = ()
    """The objectives that label its pairs, where they are known before it is read."""

    _registry: ClassVar[dict[str, type[RawDataset]]] = {}

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Register the class under its own name and aliases."""
        super().__init_subclass__(**kwargs)
        if "NAME" not in cls.__dict__:
            return
        names = [cls.NAME, *cls.__dict__.get("ALIASES", ())]
        for name in names:
            if not isinstance(name, str) or not name or ":" in name:
                raise ValueError(f"{name!r} is no name for a data set: a string without colons is")
            if name in RawDataset._registry or names.count(name) > 1:
                raise ValueError(f"there is already a data set named {name!r}")
        RawDataset._registry.update(dict.fromkeys(names, cls))

    @staticmethod
    def registered() -> list[type[RawDataset]]:
        """The classes of all data sets that have a name, sorted by it."""
        return sorted(set(RawDataset._registry.values()), key=lambda cls: cls.NAME)

    @staticmethod
    def names() -> Collection[str]:
        """All names of data sets, with their aliases."""
        return RawDataset._registry.keys()

    @staticmethod
    def load(name: str, /, path: str | None = None) -> RawDataset:
        """Open a data set by name.

        Raises:
            UserError: no data set has this name; the message lists those that exist.
        """
        try:
            cls = RawDataset._registry[name]
        except KeyError:
            known = ", ".join(cls.NAME for cls in RawDataset.registered())
            raise UserError(
                f"unknown data set {name!r}; there are: {known}; a file, a folder or a data set of "
                f"the hub is given as {AUTO}:1:{name}"
            ) from None
        return cls() if path is None else cls(path=path)  # type: ignore[call-arg]  # see above

    make = load

    @abc.abstractmethod
    def __getitem__(self, index: int) -> RawSample:
        """One sample."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    def __iter__(self) -> Iterator[RawSample]:
        return (self[index] for index in range(len(self)))

    def where(self, index: int) -> str:
        """Where a sample comes from, for messages."""
        return f"data set {self.NAME!r}, row {index + 1}"

    def split_train_test(
        self, split_ratio: float = 0.2, shuffle: bool = True, seed: int = 42
    ) -> tuple[Dataset[RawSample], Dataset[RawSample]]:
        """Two parts that share no row; ``split_ratio`` is the second one's share of the rows."""
        train, test = split_indices(len(self), split_ratio, shuffle, seed)
        return Subset(self, train), Subset(self, test)
