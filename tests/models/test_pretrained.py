"""Models with their tokenizers: special tokens, embeddings, and what is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from safe_rlhf_panacea.data import ChatTemplate
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models import AutoModelForScore, load_pretrained_models
from tests.tiny import tiny_llama, tiny_tokenizer

ROWS = len(tiny_tokenizer())
FRESH = {"fresh_head": True}


@pytest.fixture
def folder(tmp_path):
    tiny_llama(vocab=ROWS).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def without_special_tokens(folder, *names):
    tokenizer = tiny_tokenizer()
    for name in names:
        setattr(tokenizer, name, None)
    tokenizer.save_pretrained(folder)


def test_a_language_model_as_it_was_saved(folder):
    model, tokenizer = load_pretrained_models(folder, 33, "left")
    saved = tiny_llama(vocab=ROWS)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(ids).logits, saved(ids).logits)
    assert not model.training
    assert (tokenizer.model_max_length, tokenizer.padding_side) == (33, "left")
    assert len(tokenizer) == ROWS
    assert load_pretrained_models(str(folder), None)[1].model_max_length == 128


def test_the_types_asked_for(folder):
    model, _ = load_pretrained_models(
        folder,
        auto_model_type=AutoModelForScore,
        dtype=torch.bfloat16,
        auto_model_kwargs={**FRESH, "score_type": "critic", "attn_implementation": "eager"},
    )
    assert model.config.score_type == "critic"
    assert model.config._attn_implementation == "eager"
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    default, _ = load_pretrained_models(folder)
    assert default.dtype == torch.float32
    assert default.config._attn_implementation == "sdpa"


BOTH = pytest.mark.parametrize(
    "options",
    [
        {"auto_model_type": AutoModelForCausalLM},
        {"auto_model_type": AutoModelForScore, "auto_model_kwargs": FRESH},
    ],
    ids=["language model", "score model"],
)


@BOTH
def test_missing_special_tokens_that_the_vocabulary_has_are_named_again(folder, options):
    without_special_tokens(folder, "pad_token", "bos_token")
    model, tokenizer = load_pretrained_models(folder, **options)
    assert tokenizer.pad_token == "<pad>" and tokenizer.bos_token == "<s>"
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.config.bos_token_id == tokenizer.bos_token_id
    assert model.get_input_embeddings().weight.size(0) == ROWS


@BOTH
def test_embeddings_grow_with_the_tokenizer(folder, options):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<new-1>", "<new-2>"])
    tokenizer.save_pretrained(folder)
    with pytest.warns(RuntimeWarning, match=f"{ROWS + 2} tokens and the model {ROWS} embeddings"):
        model, loaded = load_pretrained_models(folder, **options)
    old = tiny_llama(vocab=ROWS)
    assert len(loaded) == model.config.vocab_size == ROWS + 2
    pairs = [(model.get_input_embeddings(), old.get_input_embeddings())]
    if options["auto_model_type"] is AutoModelForCausalLM:
        pairs.append((model.get_output_embeddings(), old.get_output_embeddings()))
    for new, before in pairs:
        mean = before.weight.double().mean(dim=0)
        assert torch.equal(new.weight[:ROWS], before.weight)
        assert torch.allclose(new.weight[ROWS:].double(), mean.expand(2, -1), atol=1e-7)


def test_a_new_pad_token_grows_the_embeddings_without_a_warning(folder, recwarn):
    tokenizer = tiny_tokenizer()
    backend = tokenizer.backend_tokenizer
    text = backend.to_str().replace("<pad>", "<hole>")
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    new = type(tokenizer)(tokenizer_object=type(backend).from_str(text), **special)
    new.save_pretrained(folder)
    model, loaded = load_pretrained_models(folder)
    assert loaded.pad_token_id == ROWS == model.config.pad_token_id
    assert model.generation_config.pad_token_id == ROWS
    assert model.get_input_embeddings().weight.size(0) == ROWS + 1
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_spare_embeddings_stay(tmp_path):
    tiny_llama(vocab=ROWS + 10).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model, _ = load_pretrained_models(tmp_path)
    assert model.get_input_embeddings().weight.size(0) == ROWS + 10


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [([2, 7], [2, 7]), (7, [7, 2]), ([7], [7, 2]), ([7, 9], [7, 9, 2]), (2, 2), (None, 2)],
)
def test_what_a_checkpoint_ends_a_response_at_stays(folder, saved, loaded):
    model = tiny_llama(vocab=ROWS)
    model.generation_config.eos_token_id = saved
    model.generation_config._from_model_config = False
    model.save_pretrained(folder)
    found, tokenizer = load_pretrained_models(folder)
    assert found.generation_config.eos_token_id == loaded
    ends = {loaded} if isinstance(loaded, int) else set(loaded)
    assert set(ChatTemplate.of("none", tokenizer).stop_ids(found)) == ends
    # As Safe-RLHF loads it, which leaves this configuration alone.
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert set(ChatTemplate.of("none", tokenizer).stop_ids(plain)) == ends


def test_an_architectures_default_ends_no_response(folder):
    model = tiny_llama(vocab=ROWS)
    model.config.eos_token_id = 9
    model.config.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    found, tokenizer = load_pretrained_models(folder)
    assert ChatTemplate.of("none", tokenizer).stop_ids(found) == (2,)


def refuse(folder, line, **options):
    with pytest.raises(UserError, match=line) as caught:
        load_pretrained_models(folder, **options)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_what_is_refused(folder, tmp_path):
    refuse(tmp_path / "nowhere", "no such folder")
    refuse("nobody/nothing", "nobody/nothing: no .* could be loaded: .")
    (folder / "tokenizer.json").write_text('{"version": ')
    refuse(folder, "no tokenizer could be loaded")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    refuse(folder, "holds no tokenizer: tokenizer.json is missing")
    tiny_tokenizer().save_pretrained(folder)
    score = {"auto_model_type": AutoModelForScore, "auto_model_kwargs": FRESH}
    load_pretrained_models(folder, **score)[0].save_pretrained(folder)
    refuse(folder, "is no checkpoint of a LlamaForCausalLM: lm_head.weight is missing")
