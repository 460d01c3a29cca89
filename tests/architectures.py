"""Tiny models of the causal architectures of transformers, and how each is sampled from.

``python -m tests.architectures [KIND ...]`` makes a tiny model of each, with an adapter whose λ
differs by row, and holds its responses against full passes over each response alone. Run it by
hand, and before a release: it ends with code 1 where the outcome is not the one in the table.
"""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from safe_rlhf_panacea.adapter import AdapterConfig, PanaceaAdapter
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward import SamplingConfig, generate
from safe_rlhf_panacea.forward.ways import fitting_way
from tests.tiny import adapt

# Of a tiny configuration: a value, and the names that architectures have for it.
SIZES = """
32 hidden_size d_model n_embd dim embedding_size word_embed_proj_dim lru_width
32 embedding_dim hidden_dim q_lora_rank kv_lora_rank
48 intermediate_size n_inner ffn_dim decoder_ffn_dim encoder_ffn_dim ffn_hidden_size dff
48 intermediate_size_mlp dim_ff d_inner
16 moe_intermediate_size shared_expert_intermediate_size
16 moe_shared_expert_intermediate_size shared_intermediate_size index_head_dim
64 vocab_size max_position_embeddings n_positions n_ctx max_seq_len max_target_positions
64 context_length vocab_size_per_layer_input
8 head_dim d_head qk_nope_head_dim qk_rope_head_dim v_head_dim attention_head_dim
8 attention_head_size dim_head swa_head_dim swa_v_head_dim global_head_dim sliding_window
8 attention_window_size attention_chunk_size sliding_window_size state_size mamba_d_state
8 ssm_state_size mamba_d_head mamba_head_dim mamba_headdim linear_key_head_dim
8 hidden_size_per_layer_input linear_value_head_dim mamba_n_heads mamba_num_heads n_mamba_heads
4 num_attention_heads n_head n_heads num_heads encoder_attention_heads
4 decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads
4 index_n_heads linear_num_key_heads linear_num_value_heads num_experts num_local_experts
4 n_routed_experts moe_num_experts mamba_dt_rank time_step_rank mamba_chunk_size
4 chunk_size rotary_dim
2 num_hidden_layers n_layer n_layers decoder_layers encoder_layers num_decoder_layers
2 num_encoder_layers num_layers num_key_value_heads num_kv_heads swa_num_key_value_heads
2 num_global_key_value_heads num_experts_per_tok moe_topk moe_k top_k_experts eos_token_id
1 n_group topk_group n_shared_experts num_shared_experts first_k_dense_replace
1 moe_num_shared_experts mamba_n_groups n_groups mamba_ngroups bos_token_id
0 pad_token_id
0.0 attention_dropout hidden_dropout_prob attention_probs_dropout_prob
false use_mamba_kernels
true is_decoder
"""
ONE_HEAD_EACH = """
axk1 axk2 bailing_hybrid deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa kimi_linear
longcat_flash minicpm3 youtu
"""
OF_ONE_KIND: dict[str, dict[str, Any]] = {
    **{kind: {"num_key_value_heads": 4} for kind in ONE_HEAD_EACH.split()},
    "bamba": {"num_hidden_layers": 3, "attn_layer_indices": [1]},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {f"{of}_layer_{what}": n for of in ("attn", "expert") for what, n in
              (("period", 2), ("offset", 1))},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8},
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "moe"], "num_hidden_layers": 3},
    "recurrent_gemma": {"num_hidden_layers": 3, "num_key_value_heads": 1},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"]},
    "rwkv": {"attention_hidden_size": 32},
    "zamba": {"layer_types": ["mamba", "hybrid"] * 2, "num_hidden_layers": 4,
              "num_key_value_heads": 4, "attention_hidden_size": 64, "attention_head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
# How each is sampled from, where it is not by our loop (``forward/ways.py``).
OTHERWISE: dict[str, str] = {
    "by_generate": "falcon_mamba mamba mamba2 minimax openai-gpt recurrent_gemma",
    "by_row": "bart bigbird_pegasus blenderbot blenderbot-small deepseek_v4 marian mbart mvp "
    "pegasus plbart reformer rwkv trocr",
    # Their positions are not those that they are told, or their caches do not work on their own.
    "refused": "camembert cpmant data2vec-text moshi prophetnet roberta roberta-prelayernorm xlm "
    "xlm-roberta xlm-roberta-xl xlnet xlstm",
    # Several kinds of input, of which the text's model is a kind of its own; or no tiny values.
    "not made": "blt cohere_compass_text dbrx dots3_note dots3_note_text emu3 fuyu gemma3 gemma3n "
    "gemma3n_text gemma4 gemma4_assistant gemma4_unified gemma4_unified_assistant git got_ocr2 "
    "llama4 mllama moss_transcribe_diarize musicgen musicgen_melody phi4_multimodal qwen3_5 "
    "qwen3_5_moe qwen4_exp qwen4_exp_text roc_bert xmod zamba2",
}
WAYS = {kind: way for way, kinds in OTHERWISE.items() for kind in kinds.split()}


def tiny_config(kind: str) -> Any:
    """A configuration of ``kind`` with the sizes above."""
    of_kind = CONFIG_MAPPING[kind]
    default = of_kind().to_dict()
    names = {*inspect.signature(of_kind.__init__).parameters, *default, *of_kind.attribute_map}
    lines = [line.split() for line in SIZES.split("\n")[1:-1]]
    values = {name: json.loads(line[0]) for line in lines for name in line[1:] if name in names}
    if kinds := list(dict.fromkeys(default.get("layer_types") or ())):
        values["layer_types"] = (kinds * 2)[: max(2, len(kinds))]
        values["num_hidden_layers"] = len(values["layer_types"])
    return of_kind(**values | OF_ONE_KIND.get(kind, {}))


def tiny_model(kind: str) -> Any:
    """A random model of ``kind``, float32, in eval mode, whose answers depend on their context.

    Raises:
        ValueError: it would not be tiny.
    """
    config = tiny_config(kind)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > 5e6:
        raise ValueError(f"it has {size} parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and parameter.std() < 0.1:
                parameter *= 5
    return model


def adapted(model: Any) -> PanaceaAdapter:
    """An adapter of every linear layer, whose λ changes what the model says."""
    return adapt(model, AdapterConfig(lora_dim=2, objectives=("a", "b"), lora_module_name=""))


PROMPTS = ([5, 9, 13, 17, 21, 25, 29, 33], [7, 11, 15, 19, 23])
STEPS, COPIES, END = 6, 3, 63


def check_responses(model: Any, adapter: PanaceaAdapter) -> None:
    """Hold responses at a λ for each prompt against full passes over each response alone."""
    ids = torch.tensor([PROMPTS[0], [0] * 3 + PROMPTS[1]])  # size = (2, 8)
    config = SamplingConfig(8 + STEPS, END, 0, temperature=0.0, num_return_sequences=COPIES)
    preferences = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    with adapter.at(preferences.repeat_interleave(COPIES, dim=0)):
        sequences, attended = generate(model, ids, ids.ne(0), config)
    for row, prompt in enumerate(PROMPTS):
        expected = list(prompt)
        with adapter.at(preferences[row]), torch.no_grad():
            while len(expected) < len(prompt) + STEPS and expected[-1] != END:
                logits = model(torch.tensor([expected]), use_cache=False).logits[0, -1]
                expected.append(int(logits.argmax()))
        for copy in range(row * COPIES, (row + 1) * COPIES):
            found = sequences[copy][attended[copy]].tolist()
            assert found == expected, f"{found} instead of {expected}"


def outcome(kind: str) -> str:
    """The way that a tiny model of ``kind`` is sampled from, or why there is none."""
    try:
        model = tiny_model(kind)
        adapter = adapted(model)
        model(torch.tensor([PROMPTS[0]]), use_cache=False)
    except Exception as error:
        print(f"  {type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}")
        return "not made"
    try:
        way = fitting_way(model, SamplingConfig(8 + STEPS, END, 0)).__name__
        check_responses(model, adapter)
        return way
    except UserError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"


def main() -> None:
    """Print a line for each kind."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    wrong = 0
    for kind in sys.argv[1:] or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        found, expected = outcome(kind), WAYS.get(kind, "by_loop")
        wrong += found != expected
        print(f"{kind:24} {found}" + (f", not {expected}" * (found != expected)), flush=True)
    sys.exit(f"{wrong} not as in the table" if wrong else 0)


if __name__ == "__main__":
    main()
