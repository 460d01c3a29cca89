"""A conversation in the terminal."""

from __future__ import annotations

import builtins

from safe_rlhf_panacea import chat
from safe_rlhf_panacea.records import Examples, write_examples
from safe_rlhf_panacea.respond import PanaceaModel
from tests.export.models import saved


def talk(monkeypatch, capsys, adapter, lines, *flags):
    """What is printed of a conversation, and what the user saw before each line."""
    waiting, asked = iter(lines), []

    def typed(label):
        asked.append(label)
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(builtins, "input", typed)
    flags = ["--max_new_tokens", "8", *flags]
    chat.main(["--adapter", str(adapter), *flags])
    return capsys.readouterr().out.split("\n"), asked


def test_lambda_changes_between_turns_and_history_is_kept(adapter, monkeypatch, capsys):
    lines = ["hello", "/λ 1,0", "and now", "/new", "hello", "/p helpful=0,harmless=1", ""]
    said, asked = talk(monkeypatch, capsys, adapter, lines)
    ends = ["helpful=0.5,harmless=0.5> "] * 2 + ["helpful=1,harmless=0> "] * 4
    assert asked == [*ends, *["helpful=0,harmless=1> "] * 2]
    model = PanaceaModel.load(adapter)
    options = {"max_new_tokens": 8, "temperature": 0}
    expected = [
        model.respond("hello", "0.5,0.5", **options),
        model.respond(["hello", said[0], "and now"], "1,0", **options),
        model.respond("hello", "1,0", **options),
    ]
    assert [line.strip() for line in said[:3]] == expected and len(set(expected)) == 3


def test_it_begins_with_what_the_model_is_and_can_be_asked(tmp_path, monkeypatch, capsys):
    adapter = saved("llama", tmp_path)[1]
    write_examples(adapter, Examples(prompts=["how?", "why\x1b[2J?"], note="A toy."))
    said, _ = talk(monkeypatch, capsys, adapter, [])
    assert said[:4] == ["A toy.", "You could ask:", "  how?", "  why\\u001b[2J?"]


def test_mistakes_do_not_end_it(adapter, monkeypatch, capsys):
    lines = ["/λ 1,1", "/funny", "a" * 200, "\ud800", "/help", "/quit", "never read"]
    said, asked = talk(monkeypatch, capsys, adapter, lines)
    assert "sums to 2" in said[0] and "no /funny" in said[1]
    assert "tokens" in said[2] and "/new begins another" in said[2]
    assert "is not UTF-8 text" in said[3] and "/quit" in "".join(said[4:])
    assert len(asked) == 6


def test_an_answer_that_is_broken_off_is_not_kept(adapter, monkeypatch, capsys):
    take, broken = print, []

    def interrupted(*args, **kwargs):
        take(*args, **kwargs)
        if kwargs and not broken:
            broken.append(args)
            raise KeyboardInterrupt

    monkeypatch.setattr(chat, "print", interrupted, raising=False)
    said, _ = talk(monkeypatch, capsys, adapter, ["hello", "again"])
    assert said[1] == "(not kept)"
    alone = PanaceaModel.load(adapter).respond("again", "0.5,0.5", max_new_tokens=8, temperature=0)
    assert said[2].strip() == alone
    monkeypatch.setattr(chat.Chat, "answer", lambda self, words: iter(["a\x1b[2J", "\rb"]))
    said, _ = talk(monkeypatch, capsys, adapter, ["hello"])
    assert said[0] == "a\\u001b[2J\\u000db"  # nothing of the model's steers the terminal
