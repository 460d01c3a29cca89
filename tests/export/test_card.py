"""The model card: what it tells, what it shows as it is, and that its commands work."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from html import unescape

import pytest
import yaml
from markdown_it import MarkdownIt

from safe_rlhf_panacea import __version__, command
from safe_rlhf_panacea.algorithms.dpo import COMMAND
from safe_rlhf_panacea.export.card import LOCAL_FLAGS, changed_flags, hub_name, main, portable
from safe_rlhf_panacea.io import atomic_write_json, read_json
from tests.eval.evaluations import write_quickstart, write_training
from tests.export.models import WITHOUT, saved

FLAGS = (
    "--model_name_or_path /home/me/models/sft --objectives helpful harmless --lr 3e-4 --bf16 "
    "--train_datasets pairs:1:/home/me/data/pairs.jsonl --eval_split_ratio 0.1 --need_eval "
    "--output_dir /home/me/runs/mine --log_type none --lora_dim 3 --aggregation tche"
)
TAGS = {"h1", "h2", "h3", "p", "a", "img", "em", "pre", "code"}
TAGS |= {"table", "thead", "tbody", "tr", "th", "td"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A base model's folder, and that of an adapter, evaluated twice, with its record."""
    base, folder = saved("llama", tmp_path_factory.mktemp("trained"))
    write_training(folder, {10: 1.0, 20: 2.0})
    record = {
        "program": "python -m safe_rlhf_panacea.algorithms.dpo",
        "args": vars(COMMAND.parser().parse_args(shlex.split(FLAGS))),
        "versions": {"safe-rlhf-panacea": __version__, "torch": "2.13.0"},
        "training_seconds": 12.4,
        "adapted_share": 0.1234,
        "environment": {"CUDA_VISIBLE_DEVICES": "secret"},
    }
    atomic_write_json(folder / "run.json", record)
    (folder / "metrics.jsonl").write_text('{"step": 20}\n{"step": 24}\n')
    return base, folder


@pytest.fixture
def adapter(trained, tmp_path):
    return shutil.copytree(trained[1], tmp_path / "adapter")


@pytest.fixture
def undrawn(monkeypatch):
    """No picture: drawing takes longer than all the rest."""
    draw = "safe_rlhf_panacea.fronts.result.FrontResult.plot"
    monkeypatch.setattr(draw, lambda _, path: path.write_bytes(b"") or path)


def card(folder, *flags):
    """The card that the program writes: its front matter and its text."""
    main(["--adapter", str(folder), *map(str, flags)])
    _, matter, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(matter), text


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, argv)))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    return error


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def test_what_it_tells(adapter):
    matter, text = card(adapter, "--base_model", "org/base", "--license", "mit", "--name", "mine")
    assert matter["base_model"] == "org/base" and matter["license"] == "mit"
    assert matter["library_name"] == "safe-rlhf-panacea" and "dpo" in matter["tags"]
    assert "# mine\n" in text and "| base model | org/base |" in text
    assert "| rank | 3 + 2 |" in text and "helpful, harmless" in text
    assert "| (0.50, 0.50) | 1.000 ± 0.100 | 1.000 ± 0.100 | 0.200 ± 0.010 |  |" in text
    assert "layers.' in their name: 12 % of the weights of the model's layers |" in text
    assert "| prompt template | Safe-RLHF's |" in text
    assert "24 steps, 12 s. The command:" in text and "torch 2.13.0." in text
    assert "![The front](front.png)" in text
    assert (adapter / "front.png").read_bytes().startswith(b"\x89PNG")
    assert "secret" not in text and "/home" not in text


def test_the_command_is_the_trainings(adapter, undrawn):
    _, text = card(adapter)
    words = shlex.split(blocks(text, "sh")[0].replace("\\\n", " "))
    assert words[:3] == ["python", "-m", "safe_rlhf_panacea.algorithms.dpo"]
    given = vars(COMMAND.parser().parse_args([*words[3:], "--output_dir", "x"]))
    for name, value in read_json(adapter / "run.json")["args"].items():
        if name not in LOCAL_FLAGS:
            assert given[name] == portable(value), name
    assert len(words) < 30  # and not every flag there is


def test_flags_of_another_version_are_all_told(adapter):
    record = read_json(adapter / "run.json")
    record["versions"]["safe-rlhf-panacea"] = "0.0.1"
    words = list(changed_flags(record))
    assert "--lora_dim 3" in words and "--epochs 1" in words and "--bf16 true" in words
    assert not any("log_type" in word or "home" in word for word in words)


def test_a_local_base_is_not_named_as_if_others_had_it(trained, adapter, undrawn):
    matter, text = card(adapter)
    assert "base_model" not in matter and "license" not in matter
    assert "base (a folder of the machine it was trained on)" in text
    assert str(trained[0].parent) not in text and "--base_model BASE" in text


@pytest.fixture
def followed(trained, adapter, undrawn, tmp_path, monkeypatch):
    """A card whose commands of this package have been run where it lies; its text."""
    _, text = card(adapter)
    monkeypatch.chdir(tmp_path)  # where the folder has the card's name for it
    monkeypatch.setattr(sys, "argv", ["panacea"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    text = text.replace("BASE", str(trained[0])).replace('=0.3"))', '=0.3", max_new_tokens=2))')
    lines = [line for part in blocks(text, "sh")[1:] for line in part.split("\n")]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("panacea ")]
    assert [words[0] for words in commands] == ["respond", "export", "export", "export"]
    for words in commands:
        command.main([*words, *(["--max_new_tokens", "2"] if words[0] == "respond" else [])])
    return text


def test_its_commands_and_its_python_work(followed, tmp_path):
    own, _ = blocks(followed, "python")
    exec(own, {})
    served = re.search(r'"path": "([^"]+)"', followed)[1]
    assert (tmp_path / served / "adapter_config.json").is_file()
    files = re.findall(r"--lora (\S+)", followed)
    assert len(files) == 3 and all((tmp_path / path).is_file() for path in files)


def test_its_python_for_peft_works(followed):
    layer = pytest.importorskip("peft.tuners.lora").LoraLayer
    exec(blocks(followed, "python")[1], space := {})
    scales = [m.scaling for m in space["model"].modules() if isinstance(m, layer)]
    assert scales and all(s == {"shared": 1, "helpful": 0.7, "harmless": 0.3} for s in scales)


def test_objectives_without_names_are_called_as_the_exports_call_them(tmp_path):
    folder = saved("llama", tmp_path, objectives=())[1]
    _, text = card(folder)
    assert "--lora gguf/objective_2.gguf" in text
    assert '"path": "vllm/objective_1=0.7,objective_2=0.3"' in text
    assert 'set_preference(model, {"objective_1": 0.7, "objective_2": 0.3})' in text


def test_a_front_given_by_flag(adapter, undrawn, tmp_path, capsys):
    quickstart = write_quickstart(tmp_path / "quick", panacea=1.0, rewarded_soups=0.5)
    other = write_training(tmp_path / "other", {1: 1.0}, m=3)
    for run, message in (
        (f"{quickstart}:ppo", "holds several fronts (panacea, rewarded_soups)"),
        (other, "a front of helpful, harmless, concise, the adapter's is of helpful, harmless"),
    ):
        assert message in refused(capsys, "--adapter", adapter, "--front", run)
        assert not (adapter / "README.md").exists() and not (adapter / "front.png").exists()
    _, text = card(adapter, "--front", f"{quickstart}:ppo/panacea")
    assert "| (0.50, 0.50) | 0.500 ± 0.100 |" in text and "helpful (mean reward)" in text


def test_without_front_record_or_preference(tmp_path, undrawn, monkeypatch):
    folder = saved(WITHOUT, tmp_path)[1]
    _, text = card(folder)
    assert "It was not measured." in text and "That was not recorded." in text
    assert "does not depend on λ" in text and "set_preference" not in text
    monkeypatch.chdir(tmp_path)
    exec(blocks(text, "python")[0].replace("BASE", str(tmp_path / "base")), space := {})
    assert "model" in space and not (folder / "front.png").exists()


@pytest.mark.parametrize("name", ["README.md", "front.png"])
def test_nothing_is_overwritten_unasked(name, adapter, undrawn, capsys):
    (adapter / name).write_text("mine")
    error = refused(capsys, "--adapter", adapter)
    assert f"{adapter / name} there already: give --overwrite" in error
    assert (adapter / name).read_text() == "mine"
    assert {p.name for p in adapter.iterdir()} & {"README.md", "front.png"} == {name}
    assert "# adapter" in card(adapter, "--overwrite")[1]


def test_text_from_files_is_text(tmp_path, undrawn):
    names = ("he|p`<i>", "**b** [x](e.org) $y$ &amp;")
    folder = saved("llama", tmp_path, objectives=names)[1]
    labels = ["<script>x</script>|", "# ![p](http://e.org/p.png)"]
    write_training(folder, {1: 1.0}, objectives=list(names), axis_labels=labels)
    args = {"note": "```\n# head\n<b>", "list": ["<u>"]}
    versions = {"<em>torch</em>": "1|2"}
    record = {"program": "````x <b>", "args": args, "versions": versions}
    atomic_write_json(folder / "run.json", record)
    config = read_json(folder / "adapter_config.json")
    _, text = card(folder, "--name", "a <b>_c_ | [d](http://e.org)\n# e")
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert set(re.findall(r"<(\w+)", html)) <= TAGS
    assert re.findall(r'(?:href|src)="([^"]*)"', html) == [
        "https://arxiv.org/abs/2402.02030",
        "front.png",
    ]
    assert html.count("<h1>") == 1 and html.count("<em>") == 1  # the last line's
    shown = unescape(re.sub("<[^>]*>", "", html))
    for piece in (*config["objectives"], *labels, "<em>torch</em> 1|2", "a <b>_c_ | [d]"):
        assert piece in shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("pairs:1:/home/me/data/pairs.jsonl", "pairs:1:pairs.jsonl"),
        ("helpful=/srv/my models/reward?max=1", "helpful=reward?max=1"),
        (["C:\\Users\\me\\x", {"a": "~/b/c.json"}, 3, None], ["x", {"a": "c.json"}, 3, None]),
        ("~eve/x/y", "y"),
        ("/home/eve", "~"),
        ("/home/eve/", "~"),
        ("file:///home/eve/z", "z"),
        ("pairs:1:hdfs://host.example:9000/user/eve/z.jsonl", "pairs:1:z.jsonl"),
        ("org/name", "org/name"),
        ("runs/sft", "runs/sft"),
        ("safe_rlhf_panacea.reward_functions:concise?max_length=100",) * 2,
        ("1/2 and/or", "1/2 and/or"),
    ],
)
def test_absolute_paths_are_cut(value, expected):
    assert portable(value) == expected


def test_what_is_a_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "sft").mkdir(parents=True)
    for name in ("org/name", "gpt2", "org/na-me.v1_2"):
        assert hub_name(name) == name
    for local in ("runs/sft", "./x", "/x", "~/x", "a/b/c", "a b", "", "x/../y", None, "org/"):
        assert hub_name(local) is None
