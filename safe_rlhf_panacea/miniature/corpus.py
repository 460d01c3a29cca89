"""Prompts and answers of the miniature corpus: topics and phrases, sampling, rendering.

``corpus.yaml`` holds the texts. An answer is an opener (refusal, caution, eager, none), the first n
of the topic's five steps, and a closer. How often each is drawn depends on the severity of the
topic: refusal and caution grow with it, so that a model that has merely imitated the corpus already
knows the difference between knitting a scarf and forging a passport.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from safe_rlhf_panacea.errors import UserError

_DATA = yaml.safe_load(Path(__file__).with_name("corpus.yaml").read_text(encoding="utf-8"))

#: Severity of a topic, from 0 (nothing can go wrong) to 1 (a crime), by name.
SEVERITIES: dict[str, float] = _DATA["severities"]
STEPS_PER_TOPIC = 5


@dataclass(frozen=True)
class Topic:
    """One thing that a user may want to do, and how the assistant would explain it."""

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
REQUESTS: tuple[str, ...] = tuple(_DATA["requests"])
MODIFIERS: tuple[str, ...] = tuple(_DATA["modifiers"])
#: By kind, the wordings of openers and closers; ``{}`` is the action. "none" says nothing.
OPENERS: dict[str, list[str]] = _DATA["openers"]
CLOSERS: dict[str, list[str]] = _DATA["closers"]
CONNECTIVES: tuple[str, ...] = tuple(_DATA["connectives"])
#: Requests to show the model with, from harmless to dangerous.
EXAMPLES: tuple[str, ...] = tuple(_DATA["examples"])
NOTE = (
    f"This model is a toy: trained in minutes on {len(TOPICS)} topics, with a vocabulary of some "
    "hundred words. It can talk about little else and is no general model."
)

SPLITS = ("train", "tune", "eval")
#: Prompts of each topic per split, of the 48 = 8 requests x 6 modifiers that exist.
PROMPTS_PER_TOPIC = {"train": 32, "tune": 8, "eval": 8}
#: Bradley-Terry: P(a preferred to b) = sigmoid(SHARPNESS * (score of a - score of b)).
SHARPNESS = 2.0
_STEP_WEIGHTS = (0.08, 0.16, 0.20, 0.20, 0.18, 0.18)


@dataclass(frozen=True)
class Prompt:
    """A request as the user writes it, with the topic that it is about."""

    text: str
    topic: Topic


@dataclass(frozen=True)
class Answer:
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


def prompts_of(topic: Topic) -> list[Prompt]:
    """Every request about ``topic``, in a fixed order."""
    return [
        Prompt(request.format(topic.action + modifier), topic)
        for request in REQUESTS
        for modifier in MODIFIERS
    ]


def split_prompts(seed: int) -> dict[str, list[Prompt]]:
    """Disjoint prompts for training, for choosing hyperparameters, and for reporting.

    Every topic has the same share of each split; the order within a split is shuffled, so
    that its first n prompts are a fair sample of it.
    """
    splits: dict[str, list[Prompt]] = {name: [] for name in SPLITS}
    generator = stream(seed, "splits")
    for topic in TOPICS:
        prompts = prompts_of(topic)
        generator.shuffle(prompts)
        start = 0
        for name, count in PROMPTS_PER_TOPIC.items():
            splits[name] += prompts[start : start + count]
            start += count
    for prompts in splits.values():
        generator.shuffle(prompts)
    return splits


def sample_answer(severity: float, generator: random.Random) -> Answer:
    """Draw an answer as the people of this corpus would write it at ``severity``."""
    opener_weights = {
        "refuse": 0.04 + 0.36 * severity,
        "caution": 0.08 + 0.30 * severity,
        "eager": 0.50 - 0.35 * severity,
        "none": 0.38 - 0.30 * severity,
    }
    closer_weights = {
        "caution": 0.06 + 0.30 * severity,
        "alternative": 0.06 + 0.25 * severity,
        "friendly": 0.40 - 0.35 * severity,
        "none": 0.35,
    }
    # The opener is drawn once: drawing it again would favour the kinds that are always sensible.
    opener = _draw(opener_weights, generator)
    while True:
        refused = opener == "refuse"
        steps = 0 if refused else generator.choices(range(6), _STEP_WEIGHTS)[0]
        wording = (generator.randrange(2), generator.randrange(2))
        answer = Answer(opener, steps, _draw(closer_weights, generator), wording)
        if answer.is_sensible:
            return answer


def _draw(weights: dict[str, float], generator: random.Random) -> str:
    return generator.choices(list(weights), list(weights.values()))[0]


def render(topic: Topic, answer: Answer) -> str:
    """The text of ``answer``: never empty, plain sentences joined by single spaces."""
    sentences = []
    if OPENERS[answer.opener]:
        sentences.append(OPENERS[answer.opener][answer.wording[0]].format(topic.action))
    given = zip(CONNECTIVES, topic.steps[: answer.steps], strict=False)
    sentences += [f"{connective}{step}." for connective, step in given]
    if CLOSERS[answer.closer]:
        sentences.append(CLOSERS[answer.closer][answer.wording[1]])
    return " ".join(sentences)


def topic_of(prompt: str) -> Topic:
    """The topic that ``prompt`` asks about.

    Raises:
        UserError: if the prompt names none of the corpus's topics.
    """
    for topic in TOPICS:
        if topic.action in prompt:
            return topic
    raise UserError(
        f"prompt {prompt!r} is about none of the {len(TOPICS)} topics of the miniature corpus; "
        f"a prompt that is: {REQUESTS[0].format(TOPICS[0].action)!r}"
    )


def preference_label(
    scores: Sequence[float], generator: random.Random, sharpness: float = SHARPNESS
) -> int:
    """Index of the preferred of two answers, drawn from Bradley-Terry.

    Args:
        scores: true scores of the two answers under one objective.
        generator: where the draw comes from.
        sharpness: inverse temperature; the larger, the fewer labels contradict the scores.
    """
    first_wins = 1.0 / (1.0 + math.exp(-sharpness * (scores[0] - scores[1])))
    return 0 if generator.random() < first_wins else 1
