"""The client against answers that were recorded from vLLM, and against servers that fail."""

from __future__ import annotations

import socket
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
import torch

from safe_rlhf_panacea.configs.kinds import server_url
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward import NoResponsesError, SamplingConfig
from safe_rlhf_panacea.rollouts.checks import Needed, check_close, check_vllm, probe, start_server
from safe_rlhf_panacea.rollouts.completions import Asked, Pool, model_name, read_answer, request
from safe_rlhf_panacea.rollouts.server import NoAnswerError, Server
from tests.export.models import saved
from tests.rollouts.stand_in import RECORDED, StandIn

NEEDED = Needed("base", "mine=/adapter", 10, 64)
BODY = request(
    "mine@helpful=0.7,harmless=0.3", [5, 6, 7], SamplingConfig(32, [2], 0), most=3, seed=1
)
NOT_VLLM = (200, {"object": "list", "data": [{"id": "a", "owned_by": "me"}]})


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return saved("llama", tmp_path_factory.mktemp("saved"))


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ({"version": (404, {"detail": "Not Found"})}, "is not vLLM: start PANACEA_ADAPTERS=mine="),
        ({"v1__models": NOT_VLLM}, "is not vLLM: start .*vllm serve base --enable-lora"),
        ({"v1__load_lora_adapter": "no such path"}, "lets no LoRA come while it runs: start .*=1"),
        ({"length": 16}, "takes 16 tokens, and --max_length is 64: start PANACEA_ADAPTERS=mine=/a"),
        ({"v1__completions": "no such model"}, "has not this package's plugin, or not mine=/a"),
        ({"v1__completions": "off the simplex"}, r"\(0.7, 0.7\) sums to 1.4, not to 1: start "),
        ({"v1__completions": "not loaded"}, "cannot load a LoRA of rank 16 .*--max-lora-rank 16"),
        (
            {"v1__completions": "not loaded", "v1__load_lora_adapter": "LoRA is off"},
            "runs without LoRA: start .*--enable-lora",
        ),
        ({"v1__completions": (401, {"error": "Unauthorized"})}, "Unauthorized: start "),
    ],
)
def test_what_is_refused_with_what_to_start_instead(adapter, failing, message):
    with StandIn(*adapter, **failing) as server, pytest.raises(UserError, match=message):
        if "v1__completions" in failing:
            probe(Server(server.url), NEEDED, BODY)
        else:
            check_vllm(Server(server.url), NEEDED)


def test_what_a_good_server_answers(adapter):
    base, folder = adapter
    with StandIn(base, {"mine": folder}) as server:
        assert check_vllm(Server(server.url), NEEDED) == RECORDED["models"][1]["data"][0]["id"]
        found = probe(Server(server.url), NEEDED, BODY)
    assert len(found.tokens) == len(found.log_probs) == 3
    assert server.asked[0]["stop_token_ids"] == [2]
    (recorded,) = read_answer(RECORDED["completion"][1], 1)
    assert recorded.tokens == [5, 5, 5] and len(recorded.log_probs) == 3
    assert max(recorded.log_probs) < 0
    for odd in (None, {}, {"choices": []}, {"choices": [{"index": 0, "text": "a"}]}):
        with pytest.raises(NoResponsesError, match=r"not that of a vLLM of version 0\.11"):
            read_answer(odd, 1)


@pytest.mark.parametrize(
    ("theirs", "temperature", "message"),
    [
        ([-1.0, -3.0], 1.0, "runs another model than base: .* differ by 0.5 nats"),
        ([-2.0, -3.0], 0.7, "gives log-probabilities at temperature 1, not 0.7: start .*processed"),
        ([-1.0, -2.1], 0.7, None),
    ],
)
def test_log_probabilities_of_another_policy(theirs, temperature, message):
    # Of the policy: -1, -2 at the temperature of sampling; -2, -3 at 1.
    own = [[-1.0, -2.0], [-2.0, -3.0]]
    inputs = Server("http://here:1"), NEEDED, theirs, own, temperature
    if message is None:
        check_close(*inputs)
        return
    with pytest.raises(UserError, match=message):
        check_close(*inputs)


def test_responses_are_laid_out_as_the_sampling_loop_does():
    def submit(bodies):
        assert [body["prompt"] for body in bodies] == [[5], [6, 7]]
        assert [body["seed"] for body in bodies] == [3, 4]
        for answer, rows in zip(answers, drawn, strict=True):
            choices = [
                {"index": i, "token_ids": ids, "logprobs": {"token_logprobs": log_probs}}
                for i, (ids, log_probs) in enumerate(rows)
            ]
            answer.set_result({"choices": choices[::-1]})
        return answers

    drawn = [
        [([8, 2], [-1.0, -2.0]), ([9], [-3.0])],
        [([2], [-4.0]), ([8, 8, 2], [-5.0, -6.0, -7.0])],
    ]
    answers = [Future(), Future()]
    config = SamplingConfig(8, [2], 0, num_return_sequences=2)
    prompts, mask = torch.tensor([[0, 5], [6, 7]]), torch.tensor([[0, 1], [1, 1]])
    asked = Asked(SimpleNamespace(submit=submit), ["a", "b"], prompts, mask, [3, 4], config)
    sequences, attended, log_probs = asked.collect()
    assert sequences.tolist() == [
        [0, 5, 8, 2, 0],
        [0, 5, 9, 0, 0],
        [6, 7, 2, 0, 0],
        [6, 7, 8, 8, 2],
    ]
    assert attended.long().tolist() == [
        [0, 1, 1, 1, 0],
        [0, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1],
    ]
    assert log_probs.tolist() == [[0, -1, -2, 0], [0, -3, 0, 0], [0, -4, 0, 0], [0, -5, -6, -7]]


def test_a_name_has_every_bit_of_the_preference():
    preference = torch.rand(3, generator=torch.Generator().manual_seed(0))
    name = model_name("rollouts/0123abcd-4", ("a", "b", "c"), preference)
    values = [float(part.partition("=")[2]) for part in name.partition("@")[2].split(",")]
    assert torch.equal(torch.tensor(values), preference)
    assert model_name("rollouts/0123abcd-4", (), torch.zeros(0)) == "rollouts/0123abcd-4"


@pytest.mark.parametrize("text", ["ftp://host", "http://", "http://host:x", "http://h?a"])
def test_addresses(text):
    with pytest.raises(UserError, match="it must be of the form http://HOST:PORT"):
        server_url(text)
    assert server_url("http://host:8000/v1/") == "http://host:8000"


# -- servers that fail ----------------------------------------------------------------


@pytest.fixture(autouse=True)
def little_waiting(monkeypatch):
    monkeypatch.setattr("safe_rlhf_panacea.rollouts.completions.WAITS", (0.0, 0.01))


def results(pool, count=12):
    return [read_answer(one.result(timeout=20), 1)[0] for one in pool.submit([BODY] * count)]


@pytest.mark.parametrize(
    "failing",
    [{"alive": 3}, {"v1__completions": (500, {"error": {"message": "EngineCore is dead"}})}],
)
def test_a_server_that_fails_is_left_out_and_nothing_is_lost(adapter, failing, capsys):
    base, folder = adapter
    with StandIn(base, {"mine": folder}) as good, StandIn(*adapter, **failing) as bad:
        bad.adapters = {"mine": folder}
        pool = Pool([Server(bad.url), Server(good.url)])
        assert {tuple(one.tokens) for one in results(pool)} == {tuple(results(pool)[0].tokens)}
        while len(pool.serving()) > 1:  # it may not have been asked before the good one was done
            results(pool)
    assert [server.url for server in pool.serving()] == [good.url]
    assert f"left out: {bad.url}" in capsys.readouterr().out


def test_no_server_is_left(adapter, monkeypatch):
    """Those that wait for their turn are told too."""
    monkeypatch.setattr("safe_rlhf_panacea.rollouts.completions.AT_ONCE", 4)
    base, folder = adapter
    with StandIn(base, {"mine": folder}, alive=3) as server:
        pool = Pool([Server(server.url)])
        errors = [answer.exception(timeout=20) for answer in pool.submit([BODY] * 12)]
        told = [str(error) for error in errors if isinstance(error, NoResponsesError)]
        assert errors.count(None) == 3 and len(told) == 9
        assert all(line.startswith(f"no rollout server is left: {server.url} ") for line in told)
        with pytest.raises(NoResponsesError, match="no rollout server is left"):
            results(pool, 1)
        server.alive = None  # it was started anew
        pool.take_back(lambda one: check_vllm(one, NEEDED))
        assert len(results(pool)) == 12


def test_a_server_that_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(NoAnswerError, match=f"{url} has not answered in 0.1 seconds"):
            Server(url, timeout=0.1).post("/v1/completions", {})
    with pytest.raises(NoAnswerError, match="does not answer"):
        Server(url).post("/v1/completions", {})


def test_the_key_that_vllm_takes(adapter, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with StandIn(*adapter) as server:
        Server(server.url).get("/version")
        assert server.keys == ["Bearer secret"]


# -- a server of the run's own --------------------------------------------------------


def test_a_server_that_does_not_start(tmp_path, monkeypatch):
    """``--rollout_server auto`` names the log; the LoRAs of a run that was killed are gone."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho $PANACEA_ADAPTERS $@\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="finds no vLLM: make vllm makes an environment for it"):
        start_server(NEEDED, tmp_path / "server", "float32")
    monkeypatch.setenv("PANACEA_VLLM_PYTHON", str(program))
    (tmp_path / "server" / "loras" / "old").mkdir(parents=True)
    with pytest.raises(UserError, match=r"vLLM has ended with code 3: .*vllm\.log says why"):
        start_server(NEEDED, tmp_path / "server", "float32", ["--more", "1"])
    log = (tmp_path / "server" / "vllm.log").read_text()
    assert log.startswith("mine=/adapter -m vllm.entrypoints.openai.api_server --model base ")
    assert "--enable-lora --max-lora-rank 16" in log and log.endswith(" --more 1\n")
    assert not (tmp_path / "server" / "loras").exists()
    monkeypatch.setenv("PANACEA_VLLM_PYTHON", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"PANACEA_VLLM_PYTHON=.*nowhere is no program"):
        start_server(NEEDED, tmp_path / "server", "float32")
