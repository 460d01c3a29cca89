"""What each patch mends: every test here fails with that patch switched off.

PANACEA_PATCHES_OFF=dpo_slice pytest tests/patches -k dpo_slice
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.contract.conftest import files  # noqa: F401 - a fixture
from tests.contract.sides import make, needs_safe_rlhf, plain_class

pytestmark = needs_safe_rlhf
ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def patched():
    from safe_rlhf_panacea.patches import import_safe_rlhf

    return import_safe_rlhf()


def trainer(algorithm, files, tmp_path, *extra):  # noqa: F811
    return make(plain_class(algorithm, "safe_rlhf"), algorithm, "safe_rlhf", files, tmp_path, extra)


def test_moved_tokenizer_names():
    from safe_rlhf.utils import BatchEncoding, PaddingStrategy
    from transformers import tokenization_utils_base as place

    assert BatchEncoding is place.BatchEncoding
    assert PaddingStrategy is place.PaddingStrategy


@pytest.mark.parametrize("name", ["llama", "opt", "qwen2", "gpt_neox", "bloom"])
def test_score_model_docstrings(name):
    from importlib import import_module

    module = import_module(f"safe_rlhf.models.score_model.{name}.modeling_{name}")
    assert any(attr.endswith("ForScore") for attr in vars(module))


@pytest.mark.parametrize("name", ["GPT2", "GPTJ"])
def test_model_parallel_utils(name):
    from importlib import import_module

    import transformers

    lower = name.lower()
    module = import_module(f"safe_rlhf.models.score_model.{lower}.modeling_{lower}")
    sizes = {"vocab_size": 11, "n_embd": 8, "n_head": 2, "n_layer": 1, "rotary_dim": 2}
    model = getattr(module, f"{name}ForScore")(getattr(transformers, f"{name}Config")(**sizes))
    ids = torch.tensor([[1, 2, 3]])
    assert model(ids, attention_mask=ids > 0).scores.shape == (1, 3, 1)


def test_normalizer_memory(files):  # noqa: F811
    """A language model holds no normaliser: it starts at its defaults, or at the config's."""
    from safe_rlhf.models import AutoModelForScore, load_pretrained_models

    for _ in range(3):  # memory may be zero by chance
        torch.full((1000,), 7.0)
        model, _ = load_pretrained_models(str(files.base), auto_model_type=AutoModelForScore)
        assert model.normalizer.mean.tolist() == [0.0]
        assert model.normalizer.var.tolist() == [1.0]
        assert model.normalizer.count.tolist() == [0]
        model.config.mean, model.config.var = [0.5], [2.0]


def test_normalizer_memory_knows_what_the_configuration_says(files, tmp_path):  # noqa: F811
    from safe_rlhf.models import AutoModelForScore, load_pretrained_models
    from safetensors.torch import load_file, save_file

    model, tokenizer = load_pretrained_models(str(files.base), auto_model_type=AutoModelForScore)
    model.config.mean, model.config.var = [0.5], [2.0]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = {k: v for k, v in load_file(weights).items() if not k.startswith("normalizer.")}
    save_file(tensors, weights, metadata={"format": "pt"})
    again, _ = load_pretrained_models(str(tmp_path), auto_model_type=AutoModelForScore)
    assert again.normalizer.mean.tolist() == [0.5]
    assert again.normalizer.var.tolist() == [2.0]
    assert torch.equal(again.score_head.weight, model.score_head.weight)


def test_zero_checkpoint(files, tmp_path):  # noqa: F811
    from safe_rlhf.models import load_pretrained_models

    dpo = trainer("dpo", files, tmp_path, "--zero_stage", "2")
    dpo.save()
    model, _ = load_pretrained_models(str(tmp_path))
    expected = dpo.model.module.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in model.state_dict().items())
    assert not (tmp_path / "pytorch_model.bin").is_dir()


def test_empty_parameter_groups():
    import safe_rlhf.trainers.rl_trainer as rl
    import safe_rlhf.trainers.supervised_trainer as supervised

    for place in (rl, supervised):
        (group,) = place.get_optimizer_grouped_parameters(torch.nn.Linear(2, 2, bias=False), 0.1)
        assert group["weight_decay"] == 0.1
        assert len(place.get_optimizer_grouped_parameters(torch.nn.Linear(2, 2), 0.1)) == 2


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_cpu_optimizer():
    import safe_rlhf.trainers.rl_trainer as rl
    import safe_rlhf.trainers.supervised_trainer as supervised

    for place in (rl, supervised):
        groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "weight_decay": 0.1}]
        optimizer = place.FusedAdam(groups, lr=0.5, betas=(0.9, 0.95))
        assert type(optimizer) is torch.optim.AdamW
        assert optimizer.param_groups[0]["weight_decay"] == 0.1
        assert optimizer.param_groups[0]["betas"] == (0.9, 0.95)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_hard_coded_cuda(files, tmp_path):  # noqa: F811
    """Safe-RLHF's own program, from its command line, in bfloat16, on a CPU."""
    command = [
        *(sys.executable, "-m", "safe_rlhf_panacea.patches", "--module"),
        *("safe_rlhf.algorithms.dpo", "--model_name_or_path", str(files.base)),
        *("--train_datasets", f"PKU-SafeRLHF/train:0.2:{files.pairs}", "--local_rank", "0"),
        *("--max_length", "64", "--output_dir", str(tmp_path), "--log_type", "tensorboard"),
        *("--bf16", "true", "--per_device_train_batch_size", "8"),
    ]
    environment = {
        **os.environ,
        **dict(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1"),
        "MASTER_PORT": "29581",
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        "A_SECRET": "hush",
        "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(ROOT)]),
    }
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "model.safetensors").is_file()
    assert not any("hush" in file.read_text() for file in tmp_path.glob("environ*"))


def test_launcher_required(files, tmp_path, monkeypatch):  # noqa: F811
    """One process, no launcher: what names it is not in the environment."""
    for name in ("RANK", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert trainer("dpo", files, tmp_path).model is not None


def test_environment_dump(tmp_path, monkeypatch):
    import safe_rlhf.logger as place

    monkeypatch.setenv("A_SECRET", "hush")
    monkeypatch.setattr(place.Logger, "_instance", None)
    logger = place.Logger(log_type="none", log_dir=str(tmp_path), config={"lr": 1})
    monkeypatch.setattr(place.Logger, "_instance", None)
    logger.close()
    assert (tmp_path / "arguments.json").is_file()
    assert not (tmp_path / "environ.txt").exists()
    assert place.os is os
    assert os.environ["A_SECRET"] == "hush"


def test_single_logger(tmp_path):
    from safe_rlhf.trainers.base import TrainerBase

    loggers = []
    for name in ("one", "two"):
        args = SimpleNamespace(
            log_type="tensorboard",
            output_dir=str(tmp_path / name),
            log_dir=None,
            log_project=None,
            log_run_name=None,
        )
        loggers.append(SimpleNamespace(args=args, TRAINING_TYPE="test"))
        TrainerBase.init_logger(loggers[-1])
    assert loggers[0].logger is not loggers[1].logger
    assert (tmp_path / "two" / "arguments.json").is_file()
    loggers[1].logger.close()


def test_dpo_slice(files, tmp_path):  # noqa: F811
    """A loss does not change with padding, and counts the first token that differs."""
    dpo = trainer("dpo", files, tmp_path)
    with torch.no_grad():
        for parameter in dpo.model.module.parameters():
            parameter.mul_(1.1)
    batch = next(iter(dpo.train_dataloader))
    batch = {name: batch[name][:1] for name in batch if name != "labels"}
    shortest = max(batch[f"{n}_attention_mask"].sum() for n in ("better", "worse"))
    for padding in (0, 1, 5):
        padded = {
            name: torch.nn.functional.pad(value[:, :shortest], (0, padding))
            for name, value in batch.items()
        }
        loss = dpo.loss(**padded)["loss"].item()
        assert loss == pytest.approx(by_hand(dpo, batch), abs=1e-5)
    assert "compute_log_probs" not in vars(dpo)


@torch.no_grad()
def by_hand(dpo, batch):
    """The loss of a pair whose answers differ from their first token on, in float64."""
    total = 0.0
    for sign, answer in ((1, "better"), (-1, "worse")):
        ids = batch[f"{answer}_input_ids"][:, : int(batch[f"{answer}_attention_mask"].sum())]
        for weight, model in ((1, dpo.model), (-1, dpo.reference_model)):
            found = model.module(ids).logits[0].double().log_softmax(-1)
            total += sign * weight * sum(found[t, ids[0, t + 1]] for t in range(ids.size(1) - 1))
    return -torch.nn.functional.logsigmoid(0.1 * total).item()


def test_overlong_prompts(files, tmp_path):  # noqa: F811
    ppo = trainer("ppo", files, tmp_path)
    lengths = [len(row["input_ids"]) for row in ppo.prompt_only_dataloader.dataset]
    limit = sorted(lengths)[len(lengths) // 2]
    short = trainer("ppo", files, tmp_path, "--max_length", str(limit), "--epochs", "1")
    kept = [len(row["input_ids"]) for row in short.prompt_only_dataloader.dataset]
    assert max(kept) == limit - 1
    assert len(kept) == sum(length < limit for length in lengths)
    short.train()
    assert short.global_step > 0


def test_empty_rows():
    import safe_rlhf.algorithms.ppo.trainer as ppo
    import safe_rlhf.trainers.rl_trainer as rl
    from safe_rlhf import utils

    values = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    for place in (ppo, rl, utils):
        mean = place.masked_mean
        assert mean(values, torch.tensor([[True, True], [False, False]])).item() == 2.0
        assert mean(values, torch.zeros(2, 2, dtype=torch.bool)).item() == 0.0
        assert mean(values, torch.tensor([[True, True], [True, False]])).item() == 3.5
        assert mean(values).item() == 4.0


def test_every_patch_has_a_test_here():
    from safe_rlhf_panacea.patches.runner import patch_files

    tests = [name.removeprefix("test_") for name in globals() if name.startswith("test_")]
    assert [file.stem for file in patch_files() if file.stem not in tests] == []
