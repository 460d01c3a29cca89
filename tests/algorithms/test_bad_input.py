"""Bad input gets one clear line and exit code 2, and nothing is written."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from safetensors.torch import load_file, save_file

from safe_rlhf_panacea.algorithms.dpo import main as dpo
from safe_rlhf_panacea.algorithms.ppo import main as ppo
from safe_rlhf_panacea.base import AutoModelForScore
from safe_rlhf_panacea.baselines import discrete_policies, fixed_scaling, rewarded_soups
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.respond import main as respond
from tests.tiny import tiny_llama, tiny_tokenizer

HEAD = "score_head.weight"


@pytest.fixture
def refused(capsys, tmp_path):
    """Run a program, expect one line on stderr and no output folder; return the line."""

    def run(main, flags):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(flags)
        lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert stop.value.code == 2
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert not (tmp_path / "out").exists()
        return lines[0]

    return run


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--lora_dimension", "8"], "there is no flag --lora_dimension: did you mean --lora_dim?"),
        (["--lora_d", "8"], "there is no flag --lora_d: did you mean --lora_dim?"),
        (["--lora_dim", "0"], "0 is not a positive integer"),
        (["--bf16", "maybe"], "'maybe' is neither true nor false"),
        (["--fp16", "--bf16"], "--fp16 and --bf16 were both given"),
        (["--pref_dim", "3"], "--pref_dim is 3, but there are 2 objectives (helpful, harmless)"),
        (["--fixed_scaling", "1", "--scaling_per_objective"], "exclude each other"),
        (["--dirichlet_alpha", "2"], "--dirichlet_alpha belongs to --preference_sampler dirichlet"),
        (["--only_optimize_lora", "false"], "--only_optimize_lora must be true: the reference is"),
        (["--vertex_probability", "0.1"], "belongs to --preference_sampler vertices"),
        (["--preference_sampler", "vertices"], "vertices needs --vertex_probability"),
        (["--fixed_preference", "0.7,0.7"], "sums to 1.4, not to 1"),
        (["--fixed_preference", "0.2,0.3,0.5"], "has 3 entries, but there are 2 objectives"),
        (["--fixed_preference", "helpful=0.5,kind=0.5"], "unknown objective 'kind'"),
        (["--fixed_preference", "1,0", "--preference_scope", "sample"], "draws nothing"),
        (["--preference_sampler", "stratified"], "for two objectives and scope sample"),
        (["--lora_module_name", "blocks."], "'blocks.' matches no linear layer"),
        (["--need_eval"], "exactly one of --eval_datasets and --eval_split_ratio"),
        (["--offload", "optimizer"], "needs --zero_stage 2 or 3"),
        (["--objectives", "helpful", "helpful"], "named twice"),
        (["--model_name_or_path", "no/such/model"], "no/such/model"),
        (["--train_datasets", "pears:1:x.jsonl"], "pears"),
        (["--train_datasets", "pairs:-1:x.jsonl"], "-1"),
        (["--train_datasets", "pairs:1:no-such-file.jsonl"], "no-such-file.jsonl"),
    ],
)
def test_flags_of_dpo(dpo_flags, refused, extra, words):
    assert words in refused(dpo, [*dpo_flags, *extra])


GOOD = {"prompt": "cde", "response_0": "aa", "response_1": "bb", "better_helpful": 0}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "bad.jsonl"),
        (["{not json"], "bad.jsonl:2"),
        ([json.dumps({**GOOD, "prompt": " "})], "bad.jsonl:2"),
        ([json.dumps({**GOOD, "response_1": ""})], "bad.jsonl:2"),
        ([json.dumps({**GOOD, "better_helpful": 2})], "bad.jsonl:2"),
        ([json.dumps({"prompt": "cde"})], "bad.jsonl:2"),
    ],
    ids=["empty", "not JSON", "blank prompt", "blank answer", "label", "missing"],
)
def test_data_are_named_with_file_and_line(dpo_flags, refused, tmp_path, lines, words):
    path = tmp_path / "bad.jsonl"
    first = [json.dumps({**GOOD, "better_harmless": 1})] if lines else []
    path.write_text("".join(f"{line}\n" for line in first + lines), encoding="utf-8")
    assert words in refused(dpo, [*dpo_flags, "--train_datasets", f"pairs:1:{path}"])


def test_an_objective_that_the_data_do_not_label(dpo_flags, refused):
    line = refused(dpo, [*dpo_flags, "--objectives", "helpful", "funny"])
    assert "funny" in line
    assert "harmless" in line  # what there is instead


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--objectives", "helpful", "funny"], "objective 'funny' has no reward model"),
        (["--objectives", "helpful"], "'harmless', which is not among --objectives"),
        (["--only_optimize_lora", "false"], "--only_optimize_lora must be true: the reference is"),
        (["--reward_scales", "funny=2"], "names 'funny', which has no reward model"),
        (["--reward_scales", "helpful=0"], "must be positive"),
        (["--reward_scales", "helpful=big"], "not a number"),
        (["--reward_signs", "helpful=2"], "must be 1 or -1"),
        (["--reward_scales", "helpful"], "not of the form name=value"),
        (["--max_length", "4"], "max_length"),
        (["--reward_scales", "helpful=nan"], "must be finite"),
        (["--reward_shifts", "helpful=inf"], "must be finite"),
        (["--per_device_train_batch_size", "3"], "no multiple of"),
    ],
)
def test_flags_of_ppo(ppo_flags, refused, extra, words):
    assert words in refused(ppo, [*ppo_flags, *extra])


def test_a_log_that_cannot_be_opened(dpo_flags, refused, tmp_path, monkeypatch):
    """The folder stays free for the corrected command."""
    (tmp_path / "file").write_text("")
    below = ["--log_dir", str(tmp_path / "file" / "below")]
    assert "is no folder that can be written to" in refused(dpo, [*dpo_flags, *below])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    line = refused(dpo, [*dpo_flags, "--log_type", "tensorboard"])
    assert "needs the package tensorboard" in line


def test_what_fails_between_the_claim_and_the_first_step(ppo_flags, reward_models, refused):
    models = [f"{name}={folder}" for name, folder in reward_models.items()]
    rule = "concise=safe_rlhf_panacea.reward_functions:concise?max_length=0"
    flags = ["--reward_models", *models, rule, "--pref_dim", "3"]
    assert "max_length 0 must be positive" in refused(ppo, [*ppo_flags, *flags])


def test_a_logger_that_fails_after_the_claim(dpo_flags, refused, monkeypatch):
    def fail(**_):
        raise UserError("no space for logs")

    monkeypatch.setattr("safe_rlhf_panacea.base.trainer.Logger", fail)
    assert "no space for logs" in refused(dpo, dpo_flags)


def test_weights_that_are_not_finite(base_model, reward_models, dpo_flags, refused, tmp_path):
    for number, (source, name) in enumerate(
        [(base_model, "model.layers.0.mlp.up_proj.weight"), (reward_models["helpful"], HEAD)]
    ):
        broken = tmp_path / f"broken{number}"
        shutil.copytree(source, broken)
        tensors = load_file(broken / "model.safetensors")
        tensors[name].view(-1)[0] = float("nan")
        save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    line = refused(dpo, [*dpo_flags, "--model_name_or_path", str(tmp_path / "broken0")])
    assert "broken0: tensor model.layers.0.mlp.up_proj.weight is not finite" in line
    with pytest.raises(UserError, match=f"broken1: tensor {HEAD} is not finite"):
        AutoModelForScore.from_pretrained(str(tmp_path / "broken1"))


@pytest.mark.parametrize("baseline", [rewarded_soups, discrete_policies, fixed_scaling])
def test_baselines_do_not_train_the_base_model_either(baseline, dpo_flags, refused):
    flags = ["dpo", *dpo_flags, "--only_optimize_lora", "false"]
    assert "--only_optimize_lora must be true" in refused(baseline.main, flags)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no_such_module:score", "no_such_module cannot be imported"),
        ("safe_rlhf_panacea.reward_functions:brief", "has no function brief"),
        ("safe_rlhf_panacea.reward_functions:concise?limit=3", "it takes no limit; it takes resp"),
        ("safe_rlhf_panacea.reward_functions:concise?max_length=x", "not of the form name=number"),
    ],
)
def test_a_reward_function_that_is_not_there(ppo_flags, reward_models, refused, path, words):
    models = [f"{name}={folder}" for name, folder in reward_models.items()]
    flags = ["--reward_models", *models, f"concise={path}", "--pref_dim", "3"]
    assert words in refused(ppo, [*ppo_flags, *flags])


def row_counter(responses):
    return [0.0] * (len(responses) + 1)


def divider(response_lengths, answer):
    return [length / 0 for length in response_lengths.tolist()]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("row_counter", r"returned shape (9,) for 8 responses"),
        ("divider", "prompts.jsonl (prompt 1 has: input), and no option gives it"),
    ],
)
def test_a_reward_function_that_does_not_fit(ppo_flags, rule_rewards, refused, name, words):
    models = [rule_rewards[0], f"harmless={__name__}:{name}"]
    line = refused(ppo, [*ppo_flags, "--reward_models", *models])
    assert f"{__name__}:{name}" in line
    assert words in line


def test_a_critic_on_the_policys_backbone_under_zero_3(ppo_flags, rule_rewards, refused):
    line = refused(ppo, [*ppo_flags, "--reward_models", *rule_rewards, "--zero_stage", "3"])
    assert "--zero_stage 3 shards weights engine by engine, and the critic would share" in line


def test_a_truncated_base_model(dpo_flags, base_model, refused, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(base_model, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "broken" in refused(dpo, [*dpo_flags, "--model_name_or_path", str(broken)])


def test_a_folder_that_holds_a_run_is_kept_unless_told_otherwise(dpo_flags, tmp_path, capsys):
    dpo(dpo_flags)
    before = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        dpo([*dpo_flags, "--seed", "1"])
    assert "already holds a run" in capsys.readouterr().err
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == before
    dpo([*dpo_flags, "--seed", "1", "--overwrite"])
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() != before


@pytest.fixture
def adapter(dpo_flags, tmp_path):
    dpo(dpo_flags)
    return shutil.move(tmp_path / "out", tmp_path / "adapter")


@pytest.mark.parametrize(
    ("preference", "words"),
    [
        ("0.5,0.6", "sums to 1.1"),
        ("1.5,-0.5", "negative"),
        ("1", "has 1 entries"),
        ("helpful=1", "says nothing of harmless"),
        ("a,b", "is not a number"),
        ("nan,1", "not finite"),
    ],
)
def test_preferences_off_the_simplex(adapter, refused, preference, words):
    line = refused(respond, ["--adapter", str(adapter), "--preference", preference, "cde"])
    assert words in line


def test_adapters_that_cannot_be_loaded(adapter, refused, tmp_path):
    flags = ["--preference", "1,0", "cde"]
    assert "adapter_config.json" in refused(respond, ["--adapter", str(tmp_path / "none"), *flags])
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:500])
    assert "truncated" in refused(respond, ["--adapter", str(adapter), *flags])
    weights.write_bytes(whole)
    tensors = load_file(weights)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, weights)
    assert "is missing" in refused(respond, ["--adapter", str(adapter), *flags])
    weights.write_bytes(whole)
    deeper = tmp_path / "deeper"
    tiny_llama(vocab=len(tiny_tokenizer()), layers=3).save_pretrained(deeper)
    tiny_tokenizer().save_pretrained(deeper)
    line = refused(respond, ["--adapter", str(adapter), "--base_model", str(deeper), *flags])
    assert "not an adapter of this model" in line
