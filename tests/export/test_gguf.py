"""The GGUF parts: what stands in the files, and the real llama.cpp."""

from __future__ import annotations

import functools
import gc
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.export.__main__ import export
from safe_rlhf_panacea.export.formats import write_gguf
from tests.export.models import GRID, assert_differs, fresh, panacea_logits, saved, tokens

gguf = pytest.importorskip("gguf")
PARTS = ("shared", "helpful", "harmless")


def test_what_stands_in_the_files(tmp_path):
    _, folder = saved("llama", tmp_path)
    out = export(folder, "gguf", tmp_path / "gguf")
    assert sorted(p.name for p in out.glob("*.gguf")) == sorted(f"{n}.gguf" for n in PARTS)
    for name, rank in zip(PARTS, (3, 1, 1), strict=True):
        reader = gguf.GGUFReader(out / f"{name}.gguf")
        assert reader.fields["adapter.type"].contents() == "lora"
        assert reader.fields["general.architecture"].contents() == "llama"
        assert reader.fields["adapter.lora.alpha"].contents() == rank
        shapes = {tensor.name: tuple(tensor.data.shape) for tensor in reader.tensors}
        assert shapes["blk.1.attn_k.weight.lora_a"] == (rank, 32)
        assert shapes["blk.1.attn_k.weight.lora_b"] == (16, rank)
        assert len(shapes) == 28


def test_an_unknown_architecture(tmp_path):
    from transformers import OPTConfig

    with pytest.raises(UserError, match="knows no model of the type 'opt'"):
        write_gguf(tmp_path / "part.gguf", {}, OPTConfig())


def write_base(path, model, name):
    """The base model as llama.cpp reads it, in float32."""
    config = model.config
    writer = gguf.GGUFWriter(path, name)
    values = {
        "block_count": config.num_hidden_layers,
        "context_length": 128,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "head_count": config.num_attention_heads,
        "head_count_kv": config.num_key_value_heads,
        "layer_norm_rms_eps": config.rms_norm_eps,
        "rope_dimension_count": config.hidden_size // config.num_attention_heads,
        "rope_freq_base": float(config.rope_parameters["rope_theta"]),
        "vocab_size": config.vocab_size,
        "file_type": 0,
        "tokenizer_model": "llama",
        "token_scores": [0.0] * config.vocab_size,
        "token_types": [2, 3, 3, *[1] * (config.vocab_size - 3)],
        "unk_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    for key, value in values.items():
        getattr(writer, f"add_{key}")(value)
    words = [f"w{i}" for i in range(config.vocab_size - 3)]
    writer.add_token_list(["<unk>", "<s>", "</s>", *words])
    architecture = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == name)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, tensor in model.state_dict().items():
        count = heads.get(key.split(".")[-2])
        if name == "llama" and count:
            head_dim = tensor.size(0) // count
            order = np.arange(tensor.size(0)).reshape(count, 2, head_dim // 2)
            tensor = tensor[torch.from_numpy(order.transpose(0, 2, 1).reshape(-1).copy())]
        writer.add_tensor(names.get_name(key, (".weight", ".bias")), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def served(base, parts):
    """llama.cpp's server with the parts loaded and none applied."""
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(base)
    params.n_ctx, params.n_parallel = 256, 2
    params.cpuparams.n_threads = 1
    params.warmup, params.verbosity = False, -1
    params.lora_init_without_apply = True
    # Flash attention would round the keys to half precision.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(str(parts / f"{name}.gguf"), 0.0) for name in PARTS
    ]
    return xllamacpp.Server(params)


def log_probs(server, preference, most=64):
    """The likeliest next tokens at λ, set for this request alone: ids and log-probabilities."""
    scales = [1.0, *preference]
    answer = server.handle_completions(
        {
            "prompt": tokens()[0].tolist(),
            "max_tokens": 1,
            "temperature": 0.0,
            "n_probs": most,
            "cache_prompt": False,
            "lora": [{"id": i, "scale": scale} for i, scale in enumerate(scales)],
        }
    )
    (found,) = answer["choices"][0]["logprobs"]["content"]
    pairs = [(entry["id"], entry["logprob"]) for entry in found["top_logprobs"]]
    ids, values = zip(*pairs, strict=True)
    return torch.tensor(ids), torch.tensor(values)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_llama_cpp_agrees_at_every_preference(kind, tmp_path):
    base, folder = saved(kind, tmp_path)
    parts = export(folder, "gguf", tmp_path / "parts")
    write_base(tmp_path / "base.gguf", fresh(base), kind)
    server = served(tmp_path / "base.gguf", parts)
    expected = {
        preference: panacea_logits(base, folder, preference)[0, -1].log_softmax(-1)
        for preference in GRID
    }
    assert_differs(expected[GRID[0]], expected[GRID[-1]])
    order = [*GRID, GRID[0], GRID[-1]]  # a request must not see the scales of the one before
    with ThreadPoolExecutor(2) as threads:  # one after the other, and at the same time
        ask = functools.partial(log_probs, server)
        for answers in (map(ask, order), threads.map(ask, order * 2)):
            for preference, (ids, values) in zip(itertools.cycle(order), answers, strict=False):
                assert len(ids) > 50
                torch.testing.assert_close(values, expected[preference][ids], atol=1e-4, rtol=0)
    del server
    gc.collect()
