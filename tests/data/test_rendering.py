"""Chat templates that hang, grow or fail, and the process that they do it in."""

from __future__ import annotations

import multiprocessing
import resource

import pytest

from safe_rlhf_panacea.data import rendering
from safe_rlhf_panacea.data.rendering import RenderingError, render
from safe_rlhf_panacea.data.templates import JinjaTemplate
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer

SAID = [{"role": "user", "content": "a"}]
ECHO = "{{ messages[0].content }}{{ eos_token }}"
DOUBLING = "{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% set n = namespace(x=1) %}" + DOUBLING, "takes"),  # few lists, but endless as text
        ('{{ ("x" * 3000000000)[:1] }}', "memory"),
        ('{{ "x" * 20000000 }}', "writes 20000002 characters, of at most"),
    ],
)
def test_time_memory_and_length_have_bounds(template, reason, monkeypatch):
    monkeypatch.setattr(rendering, "SECONDS", 0.5)
    text = "\n{% if messages[0].content != 'b' %}" + template + "{% endif %}b"
    chat = JinjaTemplate(text, tiny_tokenizer(), "file.jinja")
    with pytest.raises(UserError, match=f"^file.jinja: the chat template fails on .*{reason}"):
        chat.prompt("a")
    assert chat.prompt("b") == "\nb"  # another conversation is none the worse for it


def test_a_failure_names_its_line_and_the_next_one_is_rendered():
    with pytest.raises(RenderingError, match="no element 7") as failure:
        render("\n{{ messages[7].content }}", SAID, {}, answering=True)
    assert failure.value.line == 2
    with pytest.raises(RenderingError) as failure:
        render("{{ raise_exception('x' * 1000000) }}", SAID, {}, answering=True)
    assert 100 < len(str(failure.value)) <= 1000
    assert render(ECHO, SAID, {"eos_token": "\ud800é"}, answering=True) == "a\ud800é"


@pytest.mark.parametrize(
    ("own", "error", "asked"),
    [(resource.RLIM_INFINITY, ValueError, 2**30), (2**40, OSError, 2**30), (2**20, None, 2**20)],
)
def test_a_system_that_takes_no_limit_renders_nonetheless(own, error, asked, monkeypatch):
    found = []

    def set_limit(which, limits):
        found.append(limits)
        if error is not None:
            raise error

    monkeypatch.setattr(resource, "getrlimit", lambda which: (own, own))
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    rendering.limit_memory()
    assert found == [(asked, asked)]


def test_a_forked_process_has_a_renderer_of_its_own():
    assert render(ECHO, SAID, {}, answering=True) == "a"
    mine = rendering._renderer._process.pid
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def in_child():
        queue.put([render("b", SAID, {}, answering=True), rendering._renderer._process.pid])
        rendering._renderer.close()

    child = context.Process(target=in_child)
    child.start()
    text, pid = queue.get()
    child.join()
    assert text == "b" and pid != mine and child.exitcode == 0
    assert render(ECHO, SAID, {}, answering=True) == "a"
    assert rendering._renderer._process.pid == mine
