"""What goes up to the hub, and what does not; the hub is a stand-in."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from safe_rlhf_panacea.adapter import AdapterError
from safe_rlhf_panacea.adapter.io import read_config
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.push import main, push_to_hub
from tests.eval.evaluations import write_training
from tests.export.models import saved

HOME = "/home/eve-secret"
REAL = huggingface_hub.HfApi


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder with an adapter, and everything that must stay."""
    folder = saved("llama", tmp_path_factory.mktemp("trained"))[1]
    write_training(folder, {10: 1.0}, metadata={"prompts": f"{HOME}/prompts.jsonl"})
    args = {"model_name_or_path": f"{HOME}/sft", "train_datasets": [f"pairs:1:{HOME}/x.jsonl"]}
    environment = {"CUDA_VISIBLE_DEVICES": "eve-secret"}
    record = {"program": "python -m x", "args": args, "environment": environment, "launcher": HOME}
    atomic_write_json(folder / "run.json", record)
    atomic_write_json(folder / "wandb_run.json", {"id": "eve-secret"})
    atomic_write_json(folder / "tokenizer_config.json", {"name_or_path": HOME, "pad": "<pad>"})
    atomic_write_json(folder / "tokenizer.json", {"vocab": {"/usr/bin": 1}})
    stay = "metrics.jsonl report.html train.log responses.json pytorch_model.bin notes.md"
    for name in (*stay.split(), "screenshot.png"):
        (folder / name).write_text('{"step": 1}\n')
    for name in ("checkpoints/step-2", "launcher", "wandb", "events"):
        (folder / name).mkdir(parents=True)
        (folder / name / "adapter_config.json").write_text(HOME)
    return folder


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """No picture: drawing takes longer than all the rest."""
    draw = "safe_rlhf_panacea.fronts.result.FrontResult.plot"
    monkeypatch.setattr(draw, lambda _, path: path.write_bytes(b"") or path)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the hub that keeps what it is given."""
    hub = SimpleNamespace(calls=[], files={}, private=True, fails=None, token="hf_secret")

    def as_the_real_one_takes_it(name, *args, **kwargs):
        inspect.signature(getattr(REAL, name)).bind(None, *args, **kwargs)

    class Api:
        def __init__(self, token):
            assert token == hub.token

        def create_repo(self, repo, **kwargs):
            as_the_real_one_takes_it("create_repo", repo, **kwargs)
            private, exist_ok = kwargs["private"], kwargs["exist_ok"]
            if hub.fails:
                raise hub.fails
            hub.calls.append(("create", repo, private, exist_ok))
            return f"https://hub.example/{repo}"

        def model_info(self, repo):
            as_the_real_one_takes_it("model_info", repo)
            return SimpleNamespace(private=hub.private)

        def upload_folder(self, **kwargs):
            as_the_real_one_takes_it("upload_folder", **kwargs)
            repo_id, folder_path, commit_message = kwargs.values()
            hub.calls.append(("upload", repo_id, commit_message))
            hub.files = {
                str(path.relative_to(folder_path)): path.read_bytes()
                for path in Path(folder_path).rglob("*")
            }

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: hub.token)
    return hub


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, argv)))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    return error


def flags(folder, *more):
    return ["--adapter", folder, "--repo", "me/it", "--base_model", "org/base", *more]


def test_only_what_is_allowed_goes_up(trained, hub, tmp_path, capsys):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    main(list(map(str, flags(trained))))
    assert capsys.readouterr().out == "Uploaded to https://hub.example/me/it\n"
    assert hub.calls == [("create", "me/it", True, True), ("upload", "me/it", "A Panacea adapter")]
    adapter = ("adapter_config.json", "adapter_model.safetensors")
    shown = ("README.md", "front.png", "results.json", "run.json")
    assert set(hub.files) == {*adapter, *shown, "tokenizer.json", "tokenizer_config.json"}
    for name, content in hub.files.items():
        assert b"eve-secret" not in content and str(trained.parent).encode() not in content, name
        (tmp_path / name).write_bytes(content)
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
    config = read_config(tmp_path)
    assert config.base_model == "org/base" and config.objectives == ("helpful", "harmless")
    name = "adapter_model.safetensors"
    assert hub.files[name] == (trained / name).read_bytes()
    assert hub.files["tokenizer.json"] == (trained / "tokenizer.json").read_bytes()
    assert json.loads(hub.files["tokenizer_config.json"]) == {"pad": "<pad>"}
    args = {"model_name_or_path": "sft", "train_datasets": ["pairs:1:x.jsonl"]}
    assert json.loads(hub.files["run.json"]) == {"program": "python -m x", "args": args}
    card = hub.files["README.md"].decode()
    assert 'base_model: "org/base"' in card and "hf download me/it --local-dir it" in card


def test_a_card_that_is_there_goes_up_as_it_is(trained, hub, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "mine")
    (folder / "README.md").write_text("# My own\n![](screenshot.png)")
    main(list(map(str, flags(folder))))
    assert hub.files["README.md"] == (folder / "README.md").read_bytes()
    assert "screenshot.png" in hub.files and not {"front.png", "notes.md"} & set(hub.files)
    assert "--front is for a new card" in refused(capsys, *flags(folder, "--front", folder))


@pytest.mark.parametrize("name", ["README.md", "tokenizer.json", "adapter_model.safetensors"])
def test_links_are_not_followed(name, trained, hub, tmp_path, capsys):
    folder, secret = shutil.copytree(trained, tmp_path / "mine"), tmp_path / "secret"
    (folder / name).unlink(missing_ok=True)
    shutil.copyfile(trained / "adapter_model.safetensors", secret)
    (folder / name).symlink_to(secret)
    error = refused(capsys, *flags(folder, "--dry_run"))
    assert f"{name} is a link: only files that lie in the folder itself go up" in error
    assert not hub.calls


def test_public_only_when_asked(trained, hub, capsys):
    hub.private = False
    assert "and public: give --public" in refused(capsys, *flags(trained))
    assert not hub.files
    main(list(map(str, flags(trained, "--public"))))
    assert hub.calls[-2] == ("create", "me/it", False, True) and hub.files


def test_without_a_token_only_a_dry_run_works(trained, hub, capsys):
    hub.token = None
    main(list(map(str, flags(trained, "--dry_run"))))
    names = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert "run.json" in names and "metrics.jsonl" not in names and not hub.calls
    line = "error: no token of the hub: set HF_TOKEN, or log in with 'hf auth login'\n"
    assert refused(capsys, *flags(trained)) == line


def test_no_network(trained, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    error = refused(capsys, *flags(trained))  # the tests run offline
    assert error.startswith("error: me/it was not uploaded: ") and "hf_secret" not in error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConnectionError("a\nb"), "the hub cannot be reached: a b"),
        (TimeoutError(), "the hub cannot be reached: TimeoutError"),
        (huggingface_hub.errors.HFValidationError("no such name"), "no such name"),
    ],
)
def test_what_the_hub_refuses_is_one_line(error, line, trained, hub, capsys):
    hub.fails = error
    text = refused(capsys, *flags(trained))
    assert text == f"error: me/it was not uploaded: {line}\n"


def test_programming_errors_keep_their_traceback(trained, hub):
    hub.fails = KeyError("x")
    with pytest.raises(KeyError):
        push_to_hub(trained, "me/it", base_model="org/base")


def test_a_local_base_and_damaged_files_are_refused(trained, hub, tmp_path, capsys):
    error = refused(capsys, *flags(trained)[:4])
    assert "is a folder of this machine" in error and "--base_model" in error
    folder = shutil.copytree(trained, tmp_path / "damaged")
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(AdapterError):
        push_to_hub(folder, "me/it", base_model="org/base")
    assert not hub.calls and read_json(trained / "adapter_config.json")["base_model"]
