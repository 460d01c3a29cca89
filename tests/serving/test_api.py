"""The official client against a real server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

openai = pytest.importorskip("openai")

QUESTION = [{"role": "user", "content": "how do i pick a lock?"}]


@pytest.fixture(scope="module")
def client(server):
    with server.client() as client:
        yield client


def ask(client, preference=None, model="tiny", messages=QUESTION, extra=None, **options):
    """A greedy answer of a chat."""
    body = {"ignore_eos": True} | ({} if preference is None else {"preference": preference})
    body |= extra or {}
    options = {"max_tokens": 12, "temperature": 0, **options}
    return client.chat.completions.create(
        model=model, messages=messages, extra_body=body, **options
    )


def text(answer):
    return answer.choices[0].message.content


def test_the_way_of_naming_a_preference_does_not_matter(server, client):
    answers = [
        ask(client, [0.9, 0.1]),
        ask(client, {"harmless": 0.1, "helpful": 0.9}),
        ask(client, "helpful=0.9,harmless=0.1"),
        ask(client, model="tiny@0.9,0.1"),
        ask(client, model="tiny@harmless=0.1,helpful=0.9"),
    ]
    assert len({text(answer) for answer in answers}) == 1
    for answer in answers:
        assert answer.model == "tiny@helpful=0.9,harmless=0.1"
        assert answer.preference == {"helpful": 0.9, "harmless": 0.1}
    default = ask(client)
    assert default.preference == {"helpful": 0.5, "harmless": 0.5}
    assert len({text(a) for a in (default, answers[0], ask(client, [0, 1]))}) == 3
    model = server.service.model
    alone = model.respond(QUESTION[0]["content"], "0.9,0.1", max_new_tokens=12, temperature=0)
    assert text(answers[0]).startswith(alone)


def test_many_at_once_answer_as_each_alone(client):
    vectors = [[i / 5, 1 - i / 5] for i in range(6)]  # four rows, so two of them wait
    alone = [text(ask(client, vector)) for vector in vectors]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda vector: text(ask(client, vector)), vectors))
    assert together == alone
    assert len(set(alone)) > 3  # λ matters


def test_a_stream_is_the_answer_in_pieces(client):
    whole = ask(client, [0.2, 0.8])
    chunks = list(ask(client, [0.2, 0.8], stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    parts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(parts) == text(whole) and len(list(filter(None, parts))) > 3
    assert [c.finish_reason for chunk in chunks for c in chunk.choices][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert whole.usage.completion_tokens == 12
    assert len({chunk.id for chunk in chunks}) == 1


def test_completions_take_text_as_it_is(client):
    options = {"model": "tiny@1,0", "max_tokens": 8, "temperature": 0}
    answer = client.completions.create(prompt=["abc", "ab"], **options)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage.prompt_tokens == 5
    ids = client.completions.create(prompt=[9, 10], **options)
    assert ids.choices[0].text == answer.choices[1].text


def test_several_choices_and_seeds(client):
    def drawn(**options):
        answer = ask(client, [0.5, 0.5], temperature=2.0, **options)
        return [choice.message.content for choice in answer.choices]

    first = drawn(n=3, seed=7)
    assert len(set(first)) == 3
    assert drawn(n=3, seed=7) == first
    assert drawn(seed=8) == first[1:2]
    assert drawn(n=1) != drawn(n=1)
    assert drawn(n=2, seed=1, top_p=1e-6)[0] == text(ask(client, [0.5, 0.5]))


def test_settings_beyond_openais_change_the_answer(server, client):
    """Each against what it must come to; ``test_choosing.py`` has the numbers."""
    greedy = ask(client, [1, 0])
    for more in ({"top_k": 1}, {"min_p": 1.0}):
        drawn = [ask(client, [1, 0], temperature=3.0, seed=seed, extra=more) for seed in (1, 2)]
        assert [text(answer) for answer in drawn] == [text(greedy)] * 2
    prompt = [5, 6, 7]

    def complete(**body):
        return client.completions.create(
            model="tiny@1,0", prompt=prompt, max_tokens=12, temperature=0, extra_body=body
        )

    model = server.service.model
    model.adapter.set_preference(torch.tensor([1.0, 0.0]))
    with torch.inference_mode():  # transformers' own penalty, on whole sequences
        ids = model.model.generate(
            torch.tensor([prompt]), max_new_tokens=12, min_new_tokens=12, do_sample=False,
            repetition_penalty=5.0, pad_token_id=0,
        )[0, 3:]  # fmt: skip
    penalised = complete(repetition_penalty=5.0, ignore_eos=True).choices[0].text
    assert penalised == model.tokenizer.decode(ids, skip_special_tokens=True)
    assert penalised != complete(ignore_eos=True).choices[0].text
    stop = int(ids[4])
    assert stop not in ids[:4]
    stopped = complete(repetition_penalty=5.0, ignore_eos=True, stop_token_ids=[1, stop])
    assert stopped.usage.completion_tokens == 5 and stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].text == model.tokenizer.decode(ids[:4], skip_special_tokens=True)


@pytest.mark.parametrize("stream", [True, False])
def test_the_chosen_tokens_log_probabilities(server, client, stream):
    prompt = [5, 6, 7]
    options = {"model": "tiny@1,0", "prompt": prompt, "max_tokens": 8, "stream": stream, "seed": 3}
    options |= {"temperature": 0.7, "extra_body": {"ignore_eos": True, "top_k": 5}}
    assert stream or client.completions.create(**options).choices[0].logprobs is None
    answer = client.completions.create(logprobs=0, **options)
    parts = [chunk.choices[0] for chunk in (answer if stream else [answer])]
    whole = "".join(part.text for part in parts)
    found = [part.logprobs for part in parts]
    texts = [one for part in found for one in part.tokens]
    values = [one for part in found for one in part.token_logprobs]
    offsets = [one for part in found for one in part.text_offset]
    top = [one for part in found for one in part.top_logprobs]
    assert "".join(texts) == whole and len(texts) == 8
    assert [whole[at : at + len(one)] for at, one in zip(offsets, texts, strict=True)] == texts
    assert top == [{one: value} for one, value in zip(texts, values, strict=True)]
    model = server.service.model
    model.adapter.set_preference(torch.tensor([1.0, 0.0]))
    ids = prompt + [model.tokenizer.convert_tokens_to_ids(one) for one in texts]
    with torch.inference_mode():
        logits = model.model(torch.tensor([ids])).logits[0, 2:-1].double().numpy()
    chosen = logits[range(8), ids[3:]]
    assert values == pytest.approx(chosen - np.log(np.exp(logits).sum(-1)), abs=1e-5)


def test_fields_that_change_no_answer_and_conversations(client):
    """What others send: parts of a content, fields that ask for nothing, echoed answers."""
    alone = ask(client, [1, 0])
    more = {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}
    nothing = {"tools": [], "logprobs": False, "guided_choice": None, "preferences": None}
    assert text(ask(client, [1, 0], extra=more | nothing)) == text(alone)
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION[0]["content"]}]}]
    assert text(ask(client, [1, 0], messages=parts)) == text(alone)
    echoed = {"role": "assistant", "content": "b", "refusal": None, "annotations": []}
    answer = ask(client, [1, 0], messages=[*QUESTION, echoed, USER])
    assert answer.usage.prompt_tokens > alone.usage.prompt_tokens


def test_stop_texts_end_the_answer(client):
    whole = text(ask(client, [1, 0], max_tokens=30))
    stop = whole[5:7]
    answer = ask(client, [1, 0], max_tokens=30, stop=["never this", stop])
    assert text(answer) == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    streamed = ask(client, [1, 0], max_tokens=30, stop=stop, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == text(answer)


def test_a_control_token_that_is_spelt_is_text_in_a_chat_and_a_token_in_a_completion(client):
    counts = []
    for words in ("ab</s>cd", "abcd"):
        chat = ask(client, [1, 0], messages=[{"role": "user", "content": words}], max_tokens=1)
        plain = client.completions.create(model="tiny", prompt=words, max_tokens=1)
        counts.append([chat.usage.prompt_tokens, plain.usage.prompt_tokens])
    assert counts[0] == [counts[1][0] + 4, counts[1][1] + 1]


def test_models(client):
    names = [model.id for model in client.models.list()]
    assert names == ["tiny", "tiny@helpful=1,harmless=0", "tiny@helpful=0,harmless=1"]
    assert client.models.retrieve("tiny@0.3,0.7").preference == {"helpful": 0.3, "harmless": 0.7}
    with pytest.raises(openai.NotFoundError, match="unknown model 'other'"):
        ask(client, model="other")


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
SYSTEM = {"role": "system", "content": "b"}
REFUSED = [
    ({"model": "tiny@0.5"}, "has 1 entries, but there are 2"),
    ({"preference": [0.7, 0.7]}, "sums to 1.4, not to 1"),
    ({"preference": {"helpful": 1, "funny": 0}}, "unknown objective 'funny'"),
    ({"preference": 1}, "preference: "),
    ({"model": "tiny@1,0", "preference": [1, 0]}, "both given"),
    ({"max_tokens": 61}, "this server allows 60"),
    ({"top_p": 0}, "top_p: "),
    ({"n": 5}, "4 answers at most"),
    ({"stop": ["a"] * 5}, "at most 4"),
    ({"logprobs": True}, "logprobs is not supported"),
    ({"tools": [{"type": "function"}]}, "tools is not supported: leave it out, or send []"),
    ({"preferences": [1, 0]}, "preferences is not supported: did you mean preference?"),
    ({"guided_choice": ["yes", "no"]}, "guided_choice is not supported"),
    ({"stream_options": {"include_usages": True}}, "did you mean include_usage?"),
    ({"messages": [{**USER, "tool_calls": [{}]}]}, "messages.0: tool_calls is not supported"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "image_url is not supported"),
    ({"top_k": -2}, "top_k: "),
    ({"stop_token_ids": [10**9]}, "stop_token_ids: token ids go from 0 to "),
    ({"messages": []}, "messages: "),
    ({"messages": [USER, ANSWER]}, "the last message must be the user's"),
    ({"messages": [USER, USER]}, "alternate"),
    ({"messages": [SYSTEM, USER]}, "no place for a system prompt"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": "a " * 200}]}, "more than the 128 tokens"),
    ({"prompt": []}, "the prompt is empty"),
    ({"prompt": [""], "stream": True}, "the prompt is empty"),
    ({"prompt": "ab", "logprobs": 3}, "logprobs: only 0 is supported"),
    # No request at all. Of two values of a key the last one would win without a word.
    *((content, "") for content in ("{", "[]", '{"messages": NaN}', b"\xff")),
    ('{"messages": ' + "[" * 5000, ""),
    ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "surrogate"),
    ('{"temperature": NaN, "messages": []}', "NaN is not finite"),
    ('{"temperature": "nan", "messages": []}', "temperature: "),
    ({"preference": ["nan", 1]}, "has an entry that is not finite"),
    ('{"n": 1, "n": 2, "messages": []}', "the key 'n' stands twice"),
    ('{"messages": [{"role": "user", "role": "user"}]}', "the key 'role' stands twice"),
]


@pytest.mark.parametrize(("body", "message"), REFUSED, ids=[str(r[0])[:60] for r in REFUSED])
def test_refusals_are_one_line_in_openais_form(server, body, message):
    path = "/v1/chat/completions"
    if isinstance(body, dict):
        path = "/v1/completions" if "prompt" in body else path
        body = json.dumps({"messages": QUESTION, **body} if "prompt" not in body else body)
    with server.http(headers={"content-type": "application/json"}) as http:
        answer = http.post(path, content=body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["message"] and message in error["message"]
    assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
    assert server.service.engine.rows == 0
