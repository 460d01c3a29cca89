"""Two responses to score, a tokenizer of other ids, and a score model."""

from __future__ import annotations

import json
import tempfile

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from safe_rlhf_panacea.base import AutoModelForScore
from safe_rlhf_panacea.rewards.responses import Responses
from tests.tiny import tiny_tokenizer

EOS = 2  # of `tiny_tokenizer`


def padded_rows(tokenizer):
    """Prompts "ab" and "c" on the left, responses "de" + eos and "fghi" without an end."""
    ids = tokenizer.convert_tokens_to_ids
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    rows = [[*map(ids, "ab"), *map(ids, "de"), eos, pad], [pad, ids("c"), *map(ids, "fghi")]]
    mask = [[1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]]
    return Responses(torch.tensor(rows), torch.tensor(mask).bool(), 2)


def score_model(language_model):
    with tempfile.TemporaryDirectory() as folder:
        language_model.save_pretrained(folder)
        model = AutoModelForScore.from_pretrained(folder, fresh_head=True)
    torch.nn.init.normal_(model.score_head.weight)
    return model.eval()


def reversed_tokenizer():
    """``tiny_tokenizer`` with all but the special tokens numbered backwards."""
    state = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    last = len(vocabulary) - 1
    state["model"]["vocab"] = {
        token: index if index < 4 else last + 4 - index for token, index in vocabulary.items()
    }
    special = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        model_max_length=128,
        **{f"{name}_token": token for name, token in special.items()},
    )
