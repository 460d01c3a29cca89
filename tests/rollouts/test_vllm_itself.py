"""The plugin and the client against vLLM itself: ``make test-vllm``."""

from __future__ import annotations

import itertools
import json
import os
from types import SimpleNamespace

import pytest
import torch

from safe_rlhf_panacea.adapter import load_adapter
from safe_rlhf_panacea.algorithms.grpo import main as grpo
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.export.vllm_resolver import ALLOW
from safe_rlhf_panacea.forward import SamplingConfig, generate, log_probs, response_tokens
from safe_rlhf_panacea.rollouts.checks import PYTHON, Needed, check_vllm, probe, start_server
from safe_rlhf_panacea.rollouts.completions import Pool, read_answer, request
from safe_rlhf_panacea.rollouts.server import RefusedError, Server
from safe_rlhf_panacea.runs.logger import Logger
from tests.algorithms.conftest import write_lines
from tests.export.models import fresh
from tests.rollouts.tiny_bases import FLAGS, made

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not os.environ.get(PYTHON), reason=f"{PYTHON} names no Python with vLLM"),
    pytest.mark.timeout(600),
]

GREEDY = SamplingConfig(24, [2], 0, temperature=0.0)
PROMPT = [5, 6, 7, 12, 9]


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def served(request, tmp_path_factory):
    """A server of a tiny base with an adapter; its published versions lie in ``rollouts``."""
    folder = tmp_path_factory.mktemp(request.param)
    base, adapter = made(request.param, folder)
    published = folder / "rollouts"
    adapters = f"mine={adapter};rollouts={published}"
    needed = Needed(str(base), adapters, 10, 64, loras=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ALLOW, "harmless<=0.95;helpful>=0.05")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        more = [*FLAGS, "--max-cpu-loras", "4"]
        server = start_server(needed, folder / "server", "float32", more)
    model = fresh(base)
    yield SimpleNamespace(
        server=Server(server.url),
        needed=needed,
        base=base,
        published=published,
        model=model,
        adapter=load_adapter(model, adapter),
    )
    server.end()


def own(served, preference, config=GREEDY):
    """This package's tokens of the answer, and their log-probabilities."""
    ids = torch.tensor([PROMPT])
    with served.adapter.at(torch.tensor(preference)), torch.no_grad():
        sequences, mask = generate(served.model, ids, torch.ones_like(ids), config)
        counted = response_tokens(mask, len(PROMPT) - 1)
        found = log_probs(served.model, sequences, mask, counted)
    start = len(PROMPT)
    return sequences[0, start:].tolist(), found[0, start - 1 :]


def ask(served, model, **options):
    body = request(model, PROMPT, GREEDY, most=GREEDY.max_length - len(PROMPT))
    return read_answer(served.server.post("/v1/completions", {**body, **options}), 1)[0]


def grid(count):
    first = [round(0.05 + i * 0.9 / count, 2) for i in range(count)]
    return [(one, round(1 - one, 2)) for one in first]


def test_sixteen_preferences_at_once_and_again_after_they_were_evicted(served):
    """Four LoRAs fit: each λ is loaded, dropped and loaded again."""
    preferences = grid(16)
    names = [f"mine@helpful={one},harmless={other}" for one, other in preferences]
    bodies = [
        request(name, PROMPT, GREEDY, most=GREEDY.max_length - len(PROMPT)) for name in names * 2
    ]
    answers = [read_answer(one.result(), 1)[0] for one in Pool([served.server]).submit(bodies)]
    assert len({tuple(one.tokens) for one in answers}) > 2
    for preference, found in zip(preferences * 2, answers, strict=True):
        tokens, log_probs = own(served, preference)
        assert found.tokens == tokens
        torch.testing.assert_close(torch.tensor(found.log_probs), log_probs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("model", "status", "reason"),
    [
        ("mine@helpful=0.7,harmless=0.7", 400, "sums to 1.4, not to 1"),
        ("mine@0,1", 400, "this server allows helpful>=0.05"),
        ("rollouts/0123abcd-1@0.5,0.5", 400, "is missing: .* holds no adapter"),
        ("rollouts/../mine@1,0", 404, "does not exist"),
    ],
)
def test_what_is_refused_with_a_reason(served, model, status, reason):
    with pytest.raises(RefusedError, match=reason) as error:
        ask(served, model)
    assert error.value.status == status
    assert ask(served, "mine@0.5,0.5").tokens == own(served, (0.5, 0.5))[0]  # and it goes on


def test_what_a_trainer_finds_out_first(served):
    assert check_vllm(served.server, served.needed) == str(served.base)
    with pytest.raises(UserError, match="takes 64 tokens, and --max_length is 65"):
        check_vllm(served.server, Needed("base", "mine=/adapter", 10, 65))
    with pytest.raises(UserError, match="has not this package's plugin, or not"):
        probe(served.server, served.needed, request("other@1,0", PROMPT, GREEDY, most=2, seed=0))


def grpo_flags(served, tmp_path):
    prompts = [{"prompt": "".join(p)} for p in itertools.product("cdef", repeat=2)]
    rules = "safe_rlhf_panacea.reward_functions"
    return [
        *("--actor_model_name_or_path", str(served.base)),
        *("--train_datasets", f"prompts:1:{write_lines(tmp_path / 'prompts.jsonl', prompts)}"),
        *("--reward_models", f"helpful={rules}:matches?pattern=a"),
        f"harmless={rules}:concise?max_length=4,min_length=1",
        *("--max_length", "48", "--max_steps", "4", "--actor_lr", "1e-2"),
        *("--num_return_sequences", "4", "--per_device_prompt_batch_size", "4"),
        *("--per_device_train_batch_size", "16", "--gradient_accumulation_steps", "1"),
        *("--preference_scope", "sample", "--log_type", "none", "--progress", "false"),
        *("--rollout_engine", "vllm", "--rollout_folder", str(served.published)),
    ]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_grpo_and_the_death_of_its_server(served, tmp_path, monkeypatch, capsys):
    """Log-probabilities stay the policy's own while it learns, and nothing is lost."""
    flags, url = grpo_flags(served, tmp_path), served.server.url
    grpo([*flags, "--output_dir", str(tmp_path / "whole"), "--rollout_server", url])
    whole = metrics(tmp_path / "whole")
    assert len(whole) == 4
    assert max(line["train/sampling_logp_difference"] for line in whole) < 1e-4
    if "qwen2" in str(served.base):
        return  # one death will do
    log, started = Logger.log, []

    def starting(*args):
        started.append(start_server(*args))
        return started[0]

    def logging(self, values, step):
        log(self, values, step)
        if step == 2:
            started[0].process.kill()

    parts = [*flags, "--output_dir", str(tmp_path / "parts")]
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Logger, "log", logging)
        patch.setattr("safe_rlhf_panacea.rollouts.checks.start_server", starting)
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        grpo([*parts, "--rollout_server", "auto", "--rollout_server_flags", " ".join(FLAGS)])
    assert "the checkpoint of step 2 is kept" in capsys.readouterr().err
    grpo([*parts, "--rollout_server", url, "--resume"])
    for found, expected in zip(metrics(tmp_path / "parts"), whole, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
