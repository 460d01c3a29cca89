"""A real chat model, SmolLM2-135M-Instruct, in the folder that PANACEA_SMALL_MODEL names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.data import ChatTemplate
from safe_rlhf_panacea.experiments.table import settings
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.small.__main__ import Small
from tests.experiments.test_tables import LONGEST_RULE_PROMPT

FOLDER = os.environ.get("PANACEA_SMALL_MODEL")
pytestmark = [
    pytest.mark.small_model,
    pytest.mark.skipif(not FOLDER, reason="PANACEA_SMALL_MODEL is not set"),
]
TURNS = ["What is the capital of France?", "It is Paris.", "And of Italy?"]
ROLES = ("user", "assistant", "user")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """The model with an adapter at its start, as a program loads it, and the model alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(FOLDER).eval()
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    recorded = ChatTemplate.of("auto", tokenizer).recorded
    objectives = ("helpful", "harmless")
    folder = tmp_path_factory.mktemp("adapter")
    config = AdapterConfig(objectives=objectives, base_model=FOLDER, chat_template=recorded)
    inject_adapter(model, config).save(folder)
    alone = AutoModelForCausalLM.from_pretrained(FOLDER).eval()
    return PanaceaModel.load(folder), alone, tokenizer


@pytest.mark.parametrize("turns", [TURNS[:1], TURNS])
@pytest.mark.parametrize("system", [None, "You answer in one word."])
@torch.no_grad()
def test_an_untrained_adapter_answers_as_transformers_does(untrained, turns, system):
    panacea, model, tokenizer = untrained
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": r, "content": t} for r, t in zip(ROLES, turns, strict=False)]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, return_tensors="pt"
    )
    found = model.generate(ids, do_sample=False, max_new_tokens=24)[0, ids.size(1) :]
    answer = panacea.respond(turns, "0.5,0.5", system=system, temperature=0, max_new_tokens=24)
    assert answer == tokenizer.decode(found, skip_special_tokens=True).strip()
    assert answer  # it says something


def test_the_longest_prompt_of_the_rules_is_as_long_as_their_rows_say(tmp_path):
    numbers = settings("small", "rules")
    made = Small(root=tmp_path, model=Path(FOLDER), seed=0, settings=numbers, bf16=False)
    assert made.longest_prompt() == LONGEST_RULE_PROMPT
