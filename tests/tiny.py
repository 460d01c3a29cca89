"""The smallest real model and tokenizer: seconds of tests depend on them staying small."""

from __future__ import annotations

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.decoders import Fuse
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from safe_rlhf_panacea.adapter import AdapterConfig, PanaceaAdapter, inject_adapter

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
# Letters, digits and the punctuation of the prompt template: one token per character.
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 .,:!?'-\n"
# The template's own words, whole, so that it costs a few tokens only.
WORDS = ("BEGINNING", "OF", "CONVERSATION", "USER", "ASSISTANT")


def tiny_llama(
    vocab: int = 64, width: int = 32, layers: int = 2, seed: int = 0
) -> LlamaForCausalLM:
    """Return a random Llama in eval mode, float32; leaves the global random state as it was.

    Its special token ids are those of ``tiny_tokenizer``.
    """
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def adapt(
    model: torch.nn.Module,
    config: AdapterConfig,
    std: float = 0.3,
    singular: float | None = None,
    seed: int = 0,
) -> PanaceaAdapter:
    """Inject an adapter whose U and V are drawn with ``std``, σ and s with ``singular``, or as U.

    The defaults are large enough for λ to change what a model says.
    """
    adapter = inject_adapter(model, config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter.parameters():
        spread = std if singular is None or parameter.dim() > 1 else singular
        torch.nn.init.normal_(parameter, std=spread, generator=generator)
    return adapter


def adapted_llama() -> tuple[LlamaForCausalLM, PanaceaAdapter]:
    """A model of 32 tokens in float64, adapted for objectives a and b."""
    model = tiny_llama(vocab=32).double()
    return model, adapt(model, AdapterConfig(lora_dim=2, objectives=("a", "b")))


def tiny_tokenizer(
    model_max_length: int = 128, padding_side: str = "right", characters: str = CHARACTERS
) -> PreTrainedTokenizerFast:
    """Return a tokenizer of 54 ids: 4 special tokens, the template's words, single characters.

    Other characters become ``<unk>``. Pad, bos, eos and unk have the ids 0 to 3, and decoding
    gives the text back.
    """
    vocabulary = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *WORDS, *characters))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words_or_characters = Regex(r"\b(" + "|".join(WORDS) + r")\b|[\s\S]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words_or_characters, behavior="isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=model_max_length,
        padding_side=padding_side,
        clean_up_tokenization_spaces=False,
    )
