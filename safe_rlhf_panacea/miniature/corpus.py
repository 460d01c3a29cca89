"""The miniature's corpus: topics, prompts, answers, and its own judgement of an answer.

``corpus.yaml`` holds texts, weights and scores. An answer is an opener (refusal, caution, eager,
none), the first n of the topic's five steps, and a closer.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.experiments.table import OBJECTIVES

_DATA = yaml.safe_load(Path(__file__).with_name("corpus.yaml").read_text(encoding="utf-8"))

#: Severity of a topic, from 0 (nothing can go wrong) to 1 (a crime), by name.
SEVERITIES: dict[str, float] = _DATA["severities"]


class Topic(NamedTuple):
    """One thing that a user may want to do, and how the assistant would explain it in steps."""

    action: str
    severity_name: str
    steps: tuple[str, ...]

    @property
    def severity(self) -> float:
        """Severity of the topic, from 0 (harmless) to 1 (dangerous)."""
        return SEVERITIES[self.severity_name]


TOPICS: tuple[Topic, ...] = tuple(
    Topic(action, severity_name, tuple(steps))
    for severity_name, actions in _DATA["topics"].items()
    for action, steps in actions.items()
)
REQUESTS: list[str] = _DATA["requests"]
#: By kind, the wordings of openers and closers; ``{}`` is the action. "none" says nothing.
OPENERS: dict[str, list[str]] = _DATA["openers"]
CLOSERS: dict[str, list[str]] = _DATA["closers"]
#: Requests to show the model with, from harmless to dangerous.
EXAMPLES: list[str] = _DATA["examples"]
NOTE: str = _DATA["note"].format(len(TOPICS))
#: Prompts of each topic per split, of the 48 = 8 requests x 6 modifiers that exist.
PROMPTS_PER_TOPIC: dict[str, int] = _DATA["prompts_per_topic"]
SCORES: dict[str, Any] = _DATA["scores"]
#: Rows of the files, tokens of the tokenizer, and the form of the untrained model.
ROWS: dict[str, int] = _DATA["rows"]
VOCABULARY: int = _DATA["vocabulary"]
MODEL: dict[str, Any] = _DATA["model"]


class Prompt(NamedTuple):
    """A request as the user writes it, with the topic that it is about."""

    text: str
    topic: Topic


class Answer(NamedTuple):
    """The structure of an answer; ``wording`` picks the variants of opener and closer."""

    opener: str
    steps: int
    closer: str
    wording: tuple[int, int] = (0, 0)

    @property
    def meaning(self) -> tuple[str, int, str]:
        """The parts that the true scores depend on: all but the wording."""
        return self.opener, self.steps, self.closer

    @property
    def is_sensible(self) -> bool:
        """Whether a person could have written this answer.

        A refusal gives no steps and wishes no fun, an eager opener keeps its promise, and an
        answer without an opener and without steps says at least something worth saying.
        """
        if self.opener == "refuse":
            return self.steps == 0 and self.closer != "friendly"
        if self.opener == "eager":
            return self.steps > 0
        return self.steps > 0 or self.closer in ("caution", "alternative")


def stream(seed: int, name: str) -> random.Random:
    """A random generator for one purpose: drawing from it does not shift the others."""
    return random.Random(f"{seed}/{name}")


def split_prompts(seed: int) -> dict[str, list[Prompt]]:
    """Disjoint prompts for training, for choosing hyperparameters, and for reporting.

    Every topic has the same share of each split; the order within a split is shuffled, so
    that its first n prompts are a fair sample of it.
    """
    splits: dict[str, list[Prompt]] = {name: [] for name in PROMPTS_PER_TOPIC}
    generator = stream(seed, "splits")
    for topic in TOPICS:
        asked = [topic.action + modifier for modifier in _DATA["modifiers"]]
        prompts = [Prompt(form.format(action), topic) for form in REQUESTS for action in asked]
        generator.shuffle(prompts)
        left = iter(prompts)
        for name, count in PROMPTS_PER_TOPIC.items():
            splits[name] += islice(left, count)
    for prompts in splits.values():
        generator.shuffle(prompts)
    return splits


def sample_answer(severity: float, generator: random.Random) -> Answer:
    """Draw an answer as the people of this corpus would write it at ``severity``."""
    weights = _DATA["weights"]

    def draw(part: str) -> str:
        at = {kind: first + more * severity for kind, (first, more) in weights[part].items()}
        return generator.choices(list(at), list(at.values()))[0]

    # The opener is drawn once: drawing it again would favour the kinds that are always sensible.
    opener = draw("openers")
    while True:
        steps = 0 if opener == "refuse" else generator.choices(range(6), weights["steps"])[0]
        wording = (generator.randrange(2), generator.randrange(2))
        answer = Answer(opener, steps, draw("closers"), wording)
        if answer.is_sensible:
            return answer


def render(topic: Topic, answer: Answer) -> str:
    """The text of ``answer``: never empty, plain sentences joined by single spaces."""
    sentences = []
    if OPENERS[answer.opener]:
        sentences.append(OPENERS[answer.opener][answer.wording[0]].format(topic.action))
    given = zip(_DATA["connectives"], topic.steps[: answer.steps], strict=False)
    sentences += [f"{connective}{step}." for connective, step in given]
    if CLOSERS[answer.closer]:
        sentences.append(CLOSERS[answer.closer][answer.wording[1]])
    return " ".join(sentences)


def topic_of(prompt: str) -> Topic:
    """The topic that ``prompt`` asks about; a ``UserError`` where it is none of the corpus's."""
    for topic in TOPICS:
        if topic.action in prompt:
            return topic
    raise UserError(
        f"prompt {prompt!r} is about none of the {len(TOPICS)} topics of the miniature corpus; "
        f"a prompt that is: {REQUESTS[0].format(TOPICS[0].action)!r}"
    )


def preference_label(scores: Sequence[float], generator: random.Random) -> int:
    """Index of the preferred of two answers with these true scores, drawn from Bradley-Terry."""
    first_wins = 1.0 / (1.0 + math.exp(-_DATA["sharpness"] * (scores[0] - scores[1])))
    return 0 if generator.random() < first_wins else 1


# -- the true scores ------------------------------------------------------------------------
#
# The reward models learn from noisy labels drawn from these scores; they show whether a policy has
# merely fooled its reward models.


class Parts(NamedTuple):
    """What a text says, as far as the corpus's phrases go; each part counts once."""

    openers: frozenset[str]
    steps: frozenset[int]
    closers: frozenset[str]


def parse(text: str, topic: Topic) -> Parts:
    """Recognise the phrases and the steps of ``topic`` in free text, in any order.

    An opener counts by its fixed words, whatever action it then names; steps of other topics
    count for nothing.
    """

    def kinds(phrases: Mapping[str, Sequence[str]]) -> frozenset[str]:
        found = (k for k, w in phrases.items() if any(one.split(" {}")[0] in text for one in w))
        return frozenset(found)

    steps = frozenset(i for i, step in enumerate(topic.steps) if step in text)
    return Parts(kinds(OPENERS), steps, kinds(CLOSERS))


def score_parts(parts: Parts, topic: Topic) -> tuple[float, float]:
    """(helpful, harmless) of an answer on ``topic``, both to be maximised."""
    severity, help_of, safety_of = topic.severity, SCORES["help"], SCORES["safety"]
    # Sorted, because sums in the order of a set of strings differ in the last bit between runs.
    openers, steps, closers = sorted(parts.openers), sorted(parts.steps), sorted(parts.closers)

    def total(scores: Any, kinds: Sequence[Any]) -> float:
        return sum(scores[kind] for kind in kinds)

    helpful = help_of["nothing_said"]
    if openers or steps or closers:
        helpful = total(help_of["steps"], steps) + total(help_of["openers"], openers)
        helpful += total(help_of["closers"], closers)
    soothing = total(safety_of["openers"], openers) + total(safety_of["closers"], closers)
    harmless = severity * (soothing - total(safety_of["harm_of_steps"], steps))
    if "refuse" in openers:
        harmless -= SCORES["needless_refusal"] * (1.0 - severity) ** 2
    if severity == 0.0:
        withheld = (gain for i, gain in enumerate(help_of["steps"]) if i not in steps)
        harmless -= SCORES["needless_withholding"] * sum(withheld)
    return helpful, harmless


def true_scores(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """Scores of free-text responses, one per prompt; size = (N, 2), float64, as ``OBJECTIVES``.

    A prompt that is none of the corpus's is a ``UserError``.
    """
    topics = list(map(topic_of, prompts))
    pairs = zip(responses, topics, strict=True)
    rows = [score_parts(parse(response, topic), topic) for response, topic in pairs]
    return np.array(rows, dtype=np.float64).reshape(-1, len(OBJECTIVES))
