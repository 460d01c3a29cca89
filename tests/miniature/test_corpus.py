"""The miniature's corpus: what it says, how it is judged, how it is labelled."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import pytest

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.miniature.corpus import (
    CLOSERS,
    OPENERS,
    PROMPTS_PER_TOPIC,
    SCORES,
    TOPICS,
    Answer,
    parse,
    preference_label,
    render,
    score_parts,
    split_prompts,
    stream,
    topic_of,
    true_scores,
)
from safe_rlhf_panacea.miniature.report import severity_table, severity_text


def topic_with(severity):
    return next(topic for topic in TOPICS if topic.severity_name == severity)


def test_splits_are_disjoint_and_give_every_topic_its_share():
    splits = split_prompts(3)
    texts = [p.text for prompts in splits.values() for p in prompts]
    assert len(texts) == len(set(texts)) == 48 * len(TOPICS)
    for name, prompts in splits.items():
        counts = Counter(p.topic.action for p in prompts)
        assert set(counts.values()) == {PROMPTS_PER_TOPIC[name]}


def test_every_prompt_names_its_topic():
    for prompts in split_prompts(0).values():
        assert all(topic_of(p.text) is p.topic for p in prompts)
    with pytest.raises(UserError, match="about none of the"):
        topic_of("How do I fly to the moon?")


def all_answers() -> Iterator[Answer]:
    """Every sensible answer in every wording (wordings of silent parts are not repeated)."""
    for opener, opener_wordings in OPENERS.items():
        for closer, closer_wordings in CLOSERS.items():
            for steps in range(6):
                for i in range(max(1, len(opener_wordings))):
                    for j in range(max(1, len(closer_wordings))):
                        answer = Answer(opener, steps, closer, (i, j))
                        if answer.is_sensible:
                            yield answer


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.action)
def test_the_parser_recovers_every_answer(topic):
    for answer in all_answers():
        text = render(topic, answer)
        parts = parse(text, topic)
        assert text.strip()
        assert parts.openers == ({answer.opener} if OPENERS[answer.opener] else set())
        assert parts.closers == ({answer.closer} if CLOSERS[answer.closer] else set())
        assert parts.steps == set(range(answer.steps))


def test_help_diminishes_harm_grows_and_no_phrase_pays_on_both_objectives():
    help_of, safety_of = SCORES["help"], SCORES["safety"]
    assert help_of["steps"] == sorted(help_of["steps"], reverse=True)
    assert safety_of["harm_of_steps"] == sorted(safety_of["harm_of_steps"])
    for part in ("openers", "closers"):
        for kind, gain in help_of[part].items():
            assert not (gain > 0 and safety_of[part][kind] > 0), kind


def test_scores_by_hand():
    dangerous, harmless = topic_with("dangerous"), topic_with("harmless")
    text = f"Sure, here is how to {dangerous.action}. First, {dangerous.steps[0]}."
    # helpful 0.2 + 1.0; harmless -0.4 - 0.3
    assert score_parts(parse(text, dangerous), dangerous) == pytest.approx((1.2, -0.7))
    refusal = f"Sorry, I will not explain how to {harmless.action}."
    # harmless: -0.8 for the needless refusal, -0.4 · 3.5 for all steps withheld
    assert score_parts(parse(refusal, harmless), harmless) == pytest.approx((-1.2, -2.2))
    scores = true_scores([f"How do I {dangerous.action}?"], ["nonsense"])
    assert scores.tolist() == [[-1.2, 0.0]]


def test_labels_follow_bradley_terry():
    generator = stream(0, "labels")
    draws = 20_000
    share = sum(preference_label((0.3, 0.0), generator) == 0 for _ in range(draws)) / draws
    expected = 1 / (1 + math.exp(-2.0 * 0.3))
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


SCARF = next(topic for topic in TOPICS if topic.action == "knit a scarf")
DANGEROUS = next(topic for topic in TOPICS if topic.severity_name == "dangerous")


def samples():
    refusal = f"Sorry, I will not explain how to {DANGEROUS.action}."
    steps = f"First, {SCARF.steps[0]}. Then {SCARF.steps[1]}."
    rows = [
        (f"How do I {SCARF.action}?", steps, (0.0, 1.0)),
        (f"How can I {SCARF.action}?", "Sorry, I will not explain how to.", (0.0, 1.0)),
        (f"How do I {DANGEROUS.action}?", refusal, (0.0, 1.0)),
        (f"How do I {DANGEROUS.action}?", f"First, {DANGEROUS.steps[0]}.", (1.0, 0.0)),
    ]
    return [dict(zip(("prompt", "response", "preference"), row, strict=True)) for row in rows]


def test_rates_of_refusals_by_hand():
    table = severity_table(samples())
    cells = {(tuple(r["preference"]), r["severity"]): r for r in table}
    scarf = cells[(0.0, 1.0), "harmless"]
    assert (scarf["responses"], scarf["refusal_rate"], scarf["steps"]) == (2, 0.5, 1.0)
    assert cells[(0.0, 1.0), "dangerous"]["refusal_rate"] == 1.0
    assert cells[(1.0, 0.0), "dangerous"]["steps"] == 1.0


def test_text_has_a_line_per_preference_and_a_gap_where_nothing_was_sampled():
    lines = severity_text(severity_table(samples())).splitlines()
    assert lines[0].split()[-2:] == ["harmless", "dangerous"]
    assert "0.50 / 1.0" in lines[2]
    assert lines[3].split()[2] == "-"
