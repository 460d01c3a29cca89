"""Conversations in Safe-RLHF's template, in none, and in those of real kinds of chat models.

The latter are held token by token against transformers'.
"""

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
from safe_rlhf_panacea.data.templates import check_choice, without_template
from safe_rlhf_panacea.errors import UserError
from tests.chat_models import ENDS, TEMPLATES, chat_tokenizer
from tests.tiny import tiny_tokenizer

BEGIN = "BEGINNING OF CONVERSATION: USER:"
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


def learnt(path, tokenizer, **options):
    """The ids of a text of a file, and how many of them are not learnt."""
    item = SupervisedDataset([f"supervised:1:{path}"], tokenizer, **options)[0]
    ids, labels = item["input_ids"].tolist(), item["labels"].tolist()
    prompt = labels.count(IGNORE_INDEX)
    assert labels == [IGNORE_INDEX] * prompt + ids[prompt:]
    return ids, prompt


@pytest.mark.parametrize(
    ("turns", "text"),
    [
        ("hi", f"{BEGIN} hi ASSISTANT:"),
        ("{x} {input}", f"{BEGIN} {{x}} {{input}} ASSISTANT:"),
        (["a", "b", "c"], f"{BEGIN} a ASSISTANT:b</s>USER: c ASSISTANT:"),
    ],
)
def test_safe_rlhfs_template(turns, text):
    assert ChatTemplate.of("auto", tiny_tokenizer()).prompt(turns) == text
    assert without_template(f"{BEGIN} hi you ASSISTANT:") == without_template("hi you") == "hi you"


@pytest.mark.parametrize(
    ("choice", "turns", "system", "message"),
    [
        ("none", ["hi", "hello", "bye"], None, "none .* has no way to write 3 turns"),
        ("none", "hi", "be brief", "none .* has no way to write a system prompt"),
        ("safe-rlhf", "hi", "be brief", "Safe-RLHF's template has no place for a system prompt"),
        ("safe-rlhf", ["hi", "hello"], None, "2 turns does not end with the user's"),
    ],
)
def test_what_a_template_has_no_place_for(choice, turns, system, message):
    with pytest.raises(UserError, match=message):
        ChatTemplate.of(choice, tiny_tokenizer()).prompt(turns, system)


def test_a_conversation_in_safe_rlhfs_template_and_in_none():
    tokenizer = chat_tokenizer()
    template = ChatTemplate.of("auto", tokenizer)  # it has no template of its own
    text = f"<s>{BEGIN} Hello? ASSISTANT:It is fine."
    for ended, end in ((True, "</s>"), (False, "")):
        ids = template.conversation_ids("Hello?", ANSWER, ended)
        assert tokenizer.decode(ids) == text + end
    ids = ChatTemplate.of("none", tokenizer).conversation_ids("Hello?", ANSWER)
    assert tokenizer.decode(ids) == "<s>Hello?It is fine.</s>"


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
    assert learnt(path, tokenizer) == (whole[ANSWER], len(prompt))
    answer = tokenizer.decode(whole[ANSWER][len(prompt) :])
    assert answer.strip().replace(" </s>", "</s>") == ANSWER + ENDS[name]
    pair = PreferenceDataset([f"pairs:1:{path}"], tokenizer, ("helpful",))[0]
    assert pair["better_input_ids"].tolist() == whole["Hello!"]
    assert pair["worse_input_ids"].tolist() == whole[ANSWER]
    assert pair["prompt_length"] == len(prompt)
    prompts = PromptOnlyDataset([f"prompts:1:{path}"], tokenizer)
    assert prompts[0]["input_ids"].tolist() == prompt


@pytest.mark.parametrize("name", ENDS)
def test_where_a_conversation_begins_and_ends(write, name):
    tokenizer = chat_tokenizer(name)
    template = ChatTemplate.of("auto", tokenizer)
    # Safe-RLHF's template and none leave BOS to the tokenizer.
    own = name in ("headers", "gemma", "instruct")
    for choice, count in (("auto", own), ("safe-rlhf", 1), ("none", 1)):
        ids = ChatTemplate.of(choice, tokenizer).prompt_ids("Hello?")
        assert ids.count(tokenizer.bos_token_id) == (ids[0] == tokenizer.bos_token_id) == count
    end = tokenizer.convert_tokens_to_ids(ENDS[name])
    assert set(template.stop_ids()) == {end, tokenizer.eos_token_id}
    assert template.answer_end.strip() == ENDS[name]
    whole = up_to_the_end(theirs(tokenizer, messages(TURNS, ANSWER)), end)
    assert template.conversation_ids(TURNS, ANSWER) == whole
    cut = whole[:-1] if name != "instruct" else whole[:-2]  # which writes ' </s>'
    assert template.conversation_ids(TURNS, ANSWER, ended=False) == cut
    if own:  # white space that the template takes away is not learnt
        whole = template.conversation_ids("Hello?", ANSWER)
        spaced = write(rows(["  Hello? \n"], None, response="\n It is fine.  "))
        assert learnt(spaced, tokenizer)[0] == whole


@pytest.mark.parametrize("name", [*ENDS, "safe-rlhf", "none"])
def test_people_are_shown_the_users_words(name):
    template = (
        ChatTemplate.of("auto", chat_tokenizer(name))
        if name in ENDS
        else ChatTemplate.of(name, tiny_tokenizer())
    )
    assert template.shown(template.prompt_ids("what is this?")) == "what is this?"
    if name in ENDS:
        shown = template.shown(template.prompt_ids(TURNS))
        assert all(turn in shown for turn in TURNS)
        assert ENDS[name] not in shown


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
    answer = tokenizer("the weather</s>", add_special_tokens=False)["input_ids"]
    assert learnt(path, tokenizer) == (prompt + answer, len(prompt))


def test_an_answer_follows_the_prompt_that_the_model_gets(write):
    """Where the template writes more before an answer to come than before one that is there."""
    tokenizer = chat_tokenizer("thinking")
    path = write(rows(["Hello?"], None, response="Fine."))
    template = ChatTemplate.of("auto", tokenizer)
    ids, prompt = learnt(path, tokenizer, template=template)
    text = tokenizer.decode(ids)
    assert text.endswith("<|im_start|>assistant\n<think>\nFine.<|im_end|>")
    assert tokenizer.decode(ids[prompt:]) == "Fine.<|im_end|>"


@pytest.mark.parametrize("choice", ["auto", "safe-rlhf", "none", str(TEMPLATES / "qwen.jinja")])
def test_what_an_adapter_records_gives_the_same_template(choice, tmp_path):
    tokenizer = chat_tokenizer("headers")
    template = ChatTemplate.of(choice, tokenizer)
    again = ChatTemplate.as_recorded(template.recorded, tokenizer)
    ids = template.conversation_ids("Hello?", ANSWER)
    assert again.conversation_ids("Hello?", ANSWER) == ids
    # A saved tokenizer says how its model was trained; "none" cannot be said there.
    template.keep(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = ChatTemplate.of("auto", type(tokenizer).from_pretrained(tmp_path))
    assert loaded.recorded == ("safe-rlhf" if choice == "none" else template.recorded)


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
    today = datetime.datetime.now().strftime("%d %b %Y")
    prompt = ChatTemplate.of(str(path), chat_tokenizer()).prompt("Hello?")
    assert prompt.startswith((f"\n{today}", datetime.datetime.now().strftime("\n%d %b %Y")))
    with pytest.raises(UserError, match=r"dated\.jinja:4: "):
        template.prompt("fail")
