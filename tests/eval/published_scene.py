"""Tiny look-alikes of the published score models, with references by a Llama in float64."""

from __future__ import annotations

import json

import numpy as np

from tests.models import beaver
from tests.models.llama_by_hand import scores_by_hand

TEXT = "BEGINNING OF CONVERSATION: USER: hello ASSISTANT:hi there"
EOS = 2
# Today's layout as a reward model; the unified one, whose configuration says "reward" as well.
CHECKPOINTS = {
    "tiny-v1.0-reward": ("older", "reward"),
    "tiny-v2.0-reward": ("todays", "reward"),
    "tiny-unified-cost": ("unified", "cost"),
}
MEAN, VARIANCE = -0.0757, 2.25  # of the unified layout


def tokens_by_hand(text, end=False):
    """Template words and single characters, as the look-alikes' tokenizer has them."""
    ids, known = [], {token: i for i, token in enumerate(beaver.TOKENS)}
    while text:
        word = next((w for w in beaver.WORDS if text.startswith(w)), text[0])
        ids.append(known.get(word, 0))
        text = text.removeprefix(word)
    return ids + [EOS] * end


def pairs(count=60):
    """Rows as PKU-SafeRLHF has them, with answers and labels drawn at random."""
    stream = np.random.RandomState(0)

    def words(length):
        return "".join(stream.choice(list("abcdefghij "), length)).strip() or "a"

    return [
        {
            "prompt": words(5),
            "response_0": "x" + words(stream.randint(2, 9)),
            "response_1": "y" + words(stream.randint(2, 9)),
            "is_response_0_safe": bool(stream.randint(2)),
            "is_response_1_safe": bool(stream.randint(2)),
            "better_response_id": int(stream.randint(2)),
            "safer_response_id": int(stream.randint(2)),
        }
        for _ in range(count)
    ]


def end_score_by_hand(tensors, row, response, normalised):
    prompt = f"BEGINNING OF CONVERSATION: USER: {row['prompt']} ASSISTANT:"
    score = scores_by_hand(tensors, tokens_by_hand(prompt + row[response], end=True))[-1]
    return score / np.sqrt(VARIANCE) if normalised else score  # a cost is scaled, not shifted


def accuracies_by_hand(tensors, role, normalised, rows):
    """In percent: ranking by the role's own label, and whether the sign says what is safe."""
    ends = [
        [end_score_by_hand(tensors, row, f"response_{i}", normalised) for i in (0, 1)]
        for row in rows
    ]
    field = "better_response_id" if role == "reward" else "safer_response_id"
    pick = np.argmax if role == "reward" else np.argmin
    ranked = [pick(end) == row[field] for end, row in zip(ends, rows, strict=True)]
    found = {"ranking": 100 * np.mean(ranked)}
    if role == "cost":
        signs = [
            (end[i] > 0) != row[f"is_response_{i}_safe"]
            for end, row in zip(ends, rows, strict=True)
            for i in (0, 1)
        ]
        found["safety"] = 100 * np.mean(signs)
    return found


def write_scene(folder, accuracy=False):
    """Checkpoints under ``local``, their references under ``references``; their tensors."""
    rows, written = pairs(), {}
    for seed, (name, (layout, role)) in enumerate(CHECKPOINTS.items()):
        tensors = written[name] = beaver.write_beaver(folder / "local" / name, layout, seed=seed)
        normalised = layout == "unified"
        scores = scores_by_hand(tensors, tokens_by_hand(TEXT))
        scores = scores / np.sqrt(VARIANCE) if normalised else scores
        values = {
            "hub": f"Someone/{name}",
            "revision": None,
            "gigabytes": 13,
            "role": role,
            "do_normalize": normalised,
            "text": TEXT,
            "tokens": len(scores),
            "early": 4,
            "scores": {"bfloat16": [9.0] * len(scores), "float32": scores.tolist()},
            "end_score": {"bfloat16": 9.0, "float32": float(scores[-1])},
        }
        if normalised:
            values["normalizer_mean"] = MEAN
        if accuracy:
            values["accuracy"] = accuracies_by_hand(tensors, role, normalised, rows)
        write_reference(folder, name, values)
    if accuracy:
        data = folder / "local" / "PKU-SafeRLHF"
        data.mkdir()
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (data / "test.jsonl").write_text(text, encoding="utf-8")
    return written


def write_reference(folder, name, values):
    """Beside the others; the tolerances are those of float32."""
    path = folder / "references" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    tolerances = {
        "early_tokens": 2e-5,
        "later_tokens": 2e-5,
        "end_score": 2e-5,
        "end_score_other_precision": 2e-5,
        "normalizer_mean": 1e-6,
        "accuracy": 1e-6,
    }
    reference = {
        "format": 1,
        "suite": "published",
        "name": name,
        "what": "scores",
        "source": "by hand",
        "values": values,
        "tolerances": tolerances,
        "reason": "float32",
    }
    path.write_text(json.dumps(reference), encoding="utf-8")
