"""Data in the templates of real kinds of chat models, token by token against transformers'."""

from __future__ import annotations

import datetime

import pytest

from safe_rlhf_panacea.data import (
    IGNORE_INDEX,
    ChatTemplate,
    PreferenceDataset,
    PromptOnlyDataset,
    SupervisedDataset,
)
from safe_rlhf_panacea.errors import UserError
from tests.chat_models import ENDS, TEMPLATES, chat_tokenizer

TURNS = ["Hello?", "Hello there!", "What is the weather like?"]
ANSWER = "It is fine."
SYSTEM = "Be brief."


def messages(turns, answer=None, system=None):
    roles = ["user", "assistant"] * len(turns)
    said = [*turns, *([] if answer is None else [answer])]
    found = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    return [*([] if system is None else [{"role": "system", "content": system}]), *found]


def theirs(tokenizer, conversation, answering=False):
    """What transformers makes of a conversation."""
    return tokenizer.apply_chat_template(
        conversation, add_generation_prompt=answering, return_dict=False
    )


def up_to_the_end(ids, end):
    """Without what a template writes after the last answer's end token."""
    return ids[: len(ids) - ids[::-1].index(end)]


def rows(turns, system, **fields):
    more = {} if system is None else {"system": system}
    return [{"prompt": turns if len(turns) > 1 else turns[0], **more, **fields}]


CASES = [
    (name, turns, system)
    for name in ENDS
    for turns in (TURNS[:1], TURNS)
    for system in (None, SYSTEM)
    if system is None or name in ("chatml", "headers", "qwen")
]


@pytest.mark.parametrize(("name", "turns", "system"), CASES)
def test_data_is_written_as_transformers_writes_it(write, name, turns, system):
    tokenizer = chat_tokenizer(name)
    end = tokenizer.convert_tokens_to_ids(ENDS[name])
    fields = {"response_0": ANSWER, "response_1": "Hello!", "better_helpful": 1}
    path = write(rows(turns, system, response=ANSWER, **fields))
    prompt = theirs(tokenizer, messages(turns, None, system), answering=True)
    whole = {
        answer: up_to_the_end(theirs(tokenizer, messages(turns, answer, system)), end)
        for answer in (ANSWER, "Hello!")
    }
    item = SupervisedDataset([f"supervised:1:{path}"], tokenizer)[0]
    assert item["input_ids"].tolist() == whole[ANSWER]
    learnt = whole[ANSWER][len(prompt) :]  # only the answer and its end
    assert item["labels"].tolist() == [IGNORE_INDEX] * len(prompt) + learnt
    assert tokenizer.decode(learnt).strip().replace(" </s>", "</s>") == ANSWER + ENDS[name]
    pair = PreferenceDataset([f"pairs:1:{path}"], tokenizer, ("helpful",))[0]
    assert pair["better_input_ids"].tolist() == whole["Hello!"]
    assert pair["worse_input_ids"].tolist() == whole[ANSWER]
    assert pair["prompt_length"] == len(prompt)
    prompts = PromptOnlyDataset([f"prompts:1:{path}"], tokenizer)
    assert prompts[0]["input_ids"].tolist() == prompt


@pytest.mark.parametrize("name", ["headers", "gemma", "instruct"])
def test_white_space_that_a_template_takes_away_is_not_learnt(write, name):
    tokenizer = chat_tokenizer(name)
    spaced, plain = (
        SupervisedDataset([f"supervised:1:{write(rows([turn], None, response=text))}"], tokenizer)
        for turn, text in (("  Hello? \n", "\n It is fine.  "), ("Hello?", "It is fine."))
    )
    assert spaced[0]["input_ids"].tolist() == plain[0]["input_ids"].tolist()
    assert spaced[0]["labels"].tolist() == plain[0]["labels"].tolist()


@pytest.mark.parametrize("name", ENDS)
def test_bos_comes_once_or_not_at_all(name):
    tokenizer = chat_tokenizer(name)
    ids = ChatTemplate.of("auto", tokenizer).prompt_ids("Hello?")
    assert ids.count(tokenizer.bos_token_id) == (name in ("headers", "gemma", "instruct"))
    # Safe-RLHF's template and none leave it to the tokenizer.
    for choice in ("safe-rlhf", "none"):
        ids = ChatTemplate.of(choice, tokenizer).prompt_ids("Hello?")
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("name", ENDS)
def test_a_response_ends_at_the_templates_token_and_at_the_tokenizers(name):
    tokenizer = chat_tokenizer(name)
    template = ChatTemplate.of("auto", tokenizer)
    expected = {tokenizer.convert_tokens_to_ids(ENDS[name]), tokenizer.eos_token_id}
    assert set(template.stop_ids()) == expected
    assert template.answer_end.strip() == ENDS[name]


def test_a_template_adds_its_own_system_turn_and_takes_the_datas():
    template = ChatTemplate.of("auto", chat_tokenizer("qwen"))
    assert template.prompt("Hello?").startswith("<|im_start|>system\nYou are a model of our own.")
    assert template.prompt("Hello?", SYSTEM).startswith("<|im_start|>system\nBe brief.<|im_end|>")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gemma", r"chat template:4: .* fails on .* system, user: there is no system role"),
        ("instruct", "the chat template leaves out the system prompt"),
    ],
)
def test_no_place_for_a_system_prompt_names_the_row(write, name, message):
    path = write([{"prompt": "Hello?"}, *rows(["Hello?"], SYSTEM)])
    with pytest.raises(UserError, match=rf"data\.jsonl:2: .*{message}") as caught:
        PromptOnlyDataset([f"prompts:1:{path}"], chat_tokenizer(name))
    assert "\n" not in str(caught.value)


def test_parts_that_join_into_other_tokens_are_tokenised_apart(write):
    """'Helper: ' and 'the' meet in the token ' the', which the prompt alone does not have."""
    tokenizer = chat_tokenizer("words")
    prompt = theirs(tokenizer, messages(["Hello?"]), answering=True)
    whole = theirs(tokenizer, messages(["Hello?"], "the weather"))
    assert whole[: len(prompt)] != prompt  # else the test shows nothing
    path = write(rows(["Hello?"], None, response="the weather"))
    item = SupervisedDataset([f"supervised:1:{path}"], tokenizer)[0]
    answer = tokenizer("the weather</s>", add_special_tokens=False)["input_ids"]
    assert item["input_ids"].tolist() == prompt + answer
    assert item["labels"].tolist() == [IGNORE_INDEX] * len(prompt) + answer


def test_an_answer_follows_the_prompt_that_the_model_gets(write):
    """Where the template writes more before an answer to come than before one that is there."""
    tokenizer = chat_tokenizer("thinking")
    path = write(rows(["Hello?"], None, response="Fine."))
    template = ChatTemplate.of("auto", tokenizer)
    item = SupervisedDataset([f"supervised:1:{path}"], tokenizer, template=template)[0]
    text = tokenizer.decode(item["input_ids"])
    assert text.endswith("<|im_start|>assistant\n<think>\nFine.<|im_end|>")
    learnt = item["labels"][item["labels"] != IGNORE_INDEX]
    assert tokenizer.decode(learnt) == "Fine.<|im_end|>"


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("ended", [True, False])
def test_a_conversation_for_a_model_with_a_template_of_its_own(name, ended):
    tokenizer = chat_tokenizer(name)
    ids = ChatTemplate.of("auto", tokenizer).conversation_ids(TURNS, ANSWER, ended)
    end = tokenizer.convert_tokens_to_ids(ENDS[name])
    whole = up_to_the_end(theirs(tokenizer, messages(TURNS, ANSWER)), end)
    cut = whole[:-1] if name != "instruct" else whole[:-2]  # which writes ' </s>'
    assert ids == (whole if ended else cut)


def test_a_conversation_in_safe_rlhfs_template_and_in_none():
    tokenizer = chat_tokenizer()
    template = ChatTemplate.of("auto", tokenizer)  # it has no template of its own
    text = "<s>BEGINNING OF CONVERSATION: USER: Hello? ASSISTANT:It is fine."
    for ended, end in ((True, "</s>"), (False, "")):
        ids = template.conversation_ids("Hello?", ANSWER, ended)
        assert tokenizer.decode(ids) == text + end
    ids = ChatTemplate.of("none", tokenizer).conversation_ids("Hello?", ANSWER)
    assert tokenizer.decode(ids) == "<s>Hello?It is fine.</s>"


@pytest.mark.parametrize("name", ENDS)
def test_people_are_shown_the_users_words(name):
    template = ChatTemplate.of("auto", chat_tokenizer(name))
    assert template.shown(template.prompt_ids("What is <this>?")) == "What is <this>?"
    shown = template.shown(template.prompt_ids(TURNS))
    assert all(turn in shown for turn in TURNS)
    assert ENDS[name] not in shown


def test_what_an_adapter_records_gives_the_same_template(tmp_path):
    tokenizer = chat_tokenizer("headers")
    for choice in ("auto", "safe-rlhf", "none", str(TEMPLATES / "qwen.jinja")):
        template = ChatTemplate.of(choice, tokenizer)
        again = ChatTemplate.as_recorded(template.recorded, tokenizer)
        assert again.conversation_ids("Hello?", ANSWER) == template.conversation_ids(
            "Hello?", ANSWER
        )


@pytest.mark.parametrize(
    ("choice", "later"), [("chatml", "chatml"), ("safe-rlhf", "safe-rlhf"), ("none", "safe-rlhf")]
)
def test_a_saved_tokenizer_says_how_its_model_was_trained(tmp_path, choice, later):
    from transformers import AutoTokenizer

    named = {name: str(TEMPLATES / f"{name}.jinja") for name in ("chatml",)}
    tokenizer = chat_tokenizer("headers")  # not what it is trained with
    template = ChatTemplate.of(named.get(choice, choice), tokenizer)
    template.keep(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = ChatTemplate.of("auto", AutoTokenizer.from_pretrained(tmp_path))
    assert loaded.recorded == ChatTemplate.of(named.get(later, later), tokenizer).recorded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ bos_token }}\n\n{{ messages[0] }", r":3: .*unexpected '}'"),
        (
            "{{ bos_token }}\n\n{{ messages[7].content.x }}",
            r":3: .*fails on .* user: .*no element 7",
        ),
        ("{{ bos_token }}\n{{ 1 / 0 }}", ":2: .*division by zero"),
        ("{{ raise_exception('no,\nnever') }}", ":1: .*user: no, never"),
        ("{{ bos_token }} Hello!", "leaves out what the user says"),
        ("{{ messages[0].content }}", "leaves out what the assistant says"),
        ("{{ messages.pop() }}", ":1: "),  # the sandbox
        (" \n", "the chat template is empty"),
        (b"\xff\xfe\xff", "not UTF-8 text"),
    ],
)
def test_a_file_that_does_not_render(tmp_path, text, message):
    from safe_rlhf_panacea.data.jinja_template import check_choice

    path = tmp_path / "bad.jinja"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=rf"bad\.jinja.*{message}") as caught:
        check_choice(str(path))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_with_several_templates_and_no_default():
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = {"tools": "{{ messages }}", "rag": "{{ messages }}"}
    with pytest.raises(UserError, match=r"several chat templates \(rag, tools\) and no default"):
        ChatTemplate.of("auto", tokenizer)
    tokenizer.chat_template = {"default": chat_tokenizer("gemma").chat_template, "rag": "x"}
    assert ChatTemplate.of("auto", tokenizer).end_token == "<end_of_turn>"


def test_a_template_with_a_date_of_its_own(tmp_path):
    """As in Llama's, in a macro; white space and lines stay those of the template."""
    now = datetime.datetime(2021, 3, 4, 5, 6, 7)
    path = tmp_path / "dated.jinja"
    text = (
        "  {% macro date(x) %}{{ strftime_now(x) }}{% endmacro %}\n\n"
        "{% if strftime_now is defined %}{{ date('%d %b %Y, %-d.%m. 100%% %%d') }}{% endif %}"
        "{% for m in messages %}\n"
        "{{ m.content }}{{ nothing.at.all if m.content == 'fail' }}{% endfor %}"
    )
    path.write_text(text, encoding="utf-8")
    template = ChatTemplate.of(str(path), chat_tokenizer(), now)
    assert template.recorded == text
    assert template.prompt("Hello?") == "\n04 Mar 2021, 4.03. 100% %dHello?"
    assert "2021" not in ChatTemplate.of(str(path), chat_tokenizer()).prompt("Hello?")
    with pytest.raises(UserError, match=r"dated\.jinja:4: "):
        template.prompt("fail")
