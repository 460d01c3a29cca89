"""A run that is interrupted and resumed ends where one without a stop ends, bit for bit."""

from __future__ import annotations

import datetime
import json
import re
import shutil
from contextlib import nullcontext
from importlib import import_module

import pytest
import torch
import wandb
from safetensors.torch import load_file, save_file

from safe_rlhf_panacea.algorithms.dpo import main as dpo
from safe_rlhf_panacea.algorithms.grpo import main as grpo
from safe_rlhf_panacea.algorithms.ppo import main as ppo
from safe_rlhf_panacea.algorithms.sft import main as panacea_sft
from safe_rlhf_panacea.base.finetune import main as sft
from safe_rlhf_panacea.fronts.evaluations import read_evaluations
from safe_rlhf_panacea.runs.logger import Logger
from safe_rlhf_panacea.runs.resuming import can_go_on
from safe_rlhf_panacea.runs.run_folder import is_finished
from safe_rlhf_panacea.runs.run_record import recordable
from tests.algorithms.conftest import write_lines
from tests.algorithms.test_evaluating_shown import offline_records

pytestmark = pytest.mark.usefixtures("no_page")


class Interrupted(Exception):
    """The power fails."""


@pytest.fixture
def stop_at(monkeypatch):
    """Fail at the first log line of a step; None lets the run go on."""
    whole = Logger.log
    when = {"step": None}

    def log(self, metrics, step):
        if step == when["step"] and "train/epoch" in metrics:
            raise Interrupted
        whole(self, metrics, step)

    monkeypatch.setattr(Logger, "log", log)
    return lambda step: when.update(step=step)


def both_ways(main, flags, tmp_path, stop_at, *steps):
    """Folders of a run without a stop, and of one that failed at every of ``steps`` and went on."""
    folders = tmp_path / "whole", tmp_path / "parts"
    main([*flags, "--output_dir", str(folders[0])])
    parts, resume = [*flags, "--output_dir", str(folders[1])], []
    for step in steps:
        stop_at(step)
        with pytest.raises(Interrupted):
            main([*parts, *resume])
        stop_at(None)
        assert not is_finished(folders[1])
        # What a launcher asks before it hands on --resume.
        assert can_go_on(folders[1], recordable(main.__self__.parse_arguments(parts)))
        torch.manual_seed(123)  # whatever the new process's random numbers are
        resume = ["--resume"]
    main([*parts, *resume])
    return folders


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("front/seconds", None)
    return lines


def same_tensors(folders, name):
    whole, parts = (load_file(folder / name) for folder in folders)
    return all(torch.equal(whole[key], parts[key]) for key in whole | parts)


def same_runs(folders):
    """Adapters, metrics and fronts of two runs are equal; the metrics of one."""
    assert same_tensors(folders, "adapter_model.safetensors")
    whole, parts = map(metrics, folders)
    assert parts == whole
    evaluations = [read_evaluations(folder) for folder in folders]
    fronts = [[one.result.points for one in found] for found in evaluations]
    assert fronts[0] == fronts[1]
    assert [one.drawn for one in evaluations[0]] == [one.drawn for one in evaluations[1]]
    return whole


def resumed_from(folder):
    record = json.loads((folder / "run.json").read_text())
    return [entry["step"] for entry in record["resumed"]]


def evaluating(data, every, rows=4):
    """Flags of an evaluation at the two ends of the front."""
    return [
        *("--need_eval", "--eval_strategy", "steps", "--eval_interval", str(every)),
        *("--eval_datasets", data, "--eval_grid_step", "1", "--eval_prompts", str(rows)),
    ]


# Of 50-odd different prompts, 32 at a time: an epoch is two rollouts, of four and of three
# micro-batches with two passes each, 14 steps. The text for PTX, 32 lines, ends with every rollout.
PPO_FLAGS = (
    *("--max_steps", "32", "--per_device_prompt_batch_size", "32", "--update_iters", "2"),
    *("--preference_scope", "sample", "--aggregation", "tche", "--save_interval", "8"),
)


def test_ppo(ppo_flags, texts, prompts, tmp_path, stop_at):
    flags = [*ppo_flags, *PPO_FLAGS, "--ptx_datasets", f"supervised:1:{texts}", "--top_p", "0.9"]
    flags += evaluating(f"prompts:4/-1:{prompts}", 8)
    folders = both_ways(ppo, flags, tmp_path, stop_at, 11, 24, 30)
    whole = same_runs(folders)
    assert len({line["train/reward"] for line in whole if "train/reward" in line}) > 3
    assert resumed_from(folders[1]) == [8, 22, 28]  # the last of which ends an epoch


def test_a_template_writes_the_date_of_the_runs_start(dpo_flags, tmp_path, stop_at, monkeypatch):
    """Also where the run goes on a month later."""
    month = {"now": 3}

    class Date(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, month["now"], 3, 12)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Date)
    monkeypatch.setattr(datetime, "datetime", Date)
    template = tmp_path / "dated.jinja"
    template.write_text(
        "{{ strftime_now('%B') }}{% for m in messages %} {{ m.content }}{% if m.role == "
        "'assistant' %}{{ eos_token }}{% endif %}{% endfor %}",
        encoding="utf-8",
    )

    def a_month_later(step):
        month["now"] = 3 if step else 4
        stop_at(step)

    flags = [*dpo_flags, "--chat_template", str(template), "--max_steps", "4"]
    flags += ["--save_interval", "2"]
    folders = both_ways(dpo, flags, tmp_path, a_month_later, 4)
    assert same_tensors(folders, "adapter_model.safetensors")
    assert json.loads((folders[1] / "run.json").read_text())["template_date"][:7] == "2026-03"


def test_ppo_with_both_adapters_on_one_backbone(ppo_flags, rule_rewards, tmp_path, stop_at):
    flags = [*ppo_flags, "--reward_models", *rule_rewards, "--zero_stage", "2"]
    flags += ["--max_steps", "6", "--save_interval", "2"]
    whole = same_runs(both_ways(ppo, flags, tmp_path, stop_at, 5))
    assert whole[-1]["train/reward_value"] != 0  # the critic is trained, and went on


def test_grpo(grpo_flags, texts, prompts, tmp_path, stop_at):
    """Two passes over two micro-batches, Tchebycheff's ideal point, text for PTX, evaluations."""
    flags = [*grpo_flags, "--max_steps", "12", "--update_iters", "2", "--save_interval", "4"]
    flags += ["--per_device_train_batch_size", "8", "--preference_scope", "sample"]
    flags += ["--aggregation", "tche", "--equal_steps", "--ptx_datasets", f"supervised:1:{texts}"]
    flags += evaluating(f"prompts:4/-1:{prompts}", 4)
    folders = both_ways(grpo, flags, tmp_path, stop_at, 6, 10)
    same_runs(folders)
    assert len(read_evaluations(folders[0])) == 4
    assert resumed_from(folders[1]) == [4, 8]


def test_ppo_with_accumulation_draws_the_same_preferences(ppo_flags, tmp_path, stop_at):
    """24 prompts, 16 at a time: epochs of 3 steps, so that an update lies across their border."""
    rows = [{"prompt": first + second} for first in "cdefg" for second in "hijkl"][:24]
    data = write_lines(tmp_path / "prompts.jsonl", rows)
    flags = [*ppo_flags, "--train_datasets", f"prompts:1:{data}", "--max_length", "22"]
    flags += ["--per_device_prompt_batch_size", "16", "--gradient_accumulation_steps", "2"]
    flags += ["--max_steps", "9", "--save_interval", "2"]
    folders = both_ways(ppo, flags, tmp_path, stop_at, 8)
    whole = same_runs(folders)
    assert len({line["train/preference_helpful"] for line in whole}) == 5
    assert resumed_from(folders[1]) == [6]


class Killed(BaseException):
    """Nothing that a program could catch."""


def kill(*_, **__):
    raise Killed


PLACES = (
    "safe_rlhf_panacea.dashboard.atomic_write_json",  # after evaluations.jsonl
    "safe_rlhf_panacea.dashboard.atomic_write_text",  # after results.json
    "safe_rlhf_panacea.runs.logger.append_line",  # before the line of metrics.jsonl
)


def test_a_kill_within_the_last_evaluation_loses_nothing(dpo_flags, pairs, tmp_path):
    flags = [*dpo_flags, "--max_steps", "3", "--save_interval", "3"]
    flags += [*evaluating(f"pairs:8/-1:{pairs}", 2), "--output_dir"]
    dpo([*flags, str(tmp_path / "whole")])
    for number, place in enumerate(PLACES):
        folders = tmp_path / "whole", tmp_path / f"parts{number}"
        module, _, name = place.rpartition(".")
        write = getattr(import_module(module), name)

        def killed(*args, folder=folders[1], write=write, **kwargs):
            if len(read_evaluations(folder)) == 3:
                raise Killed
            return write(*args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, killed)
            with pytest.raises(Killed):
                dpo([*flags, str(folders[1])])
        dpo([*flags, str(folders[1]), "--resume"])
        assert is_finished(folders[1])
        results = [json.loads((folder / "results.json").read_text()) for folder in folders]
        assert results[0]["step"] == results[1]["step"] == 3
        assert results[0]["front"] == results[1]["front"]
        assert "front/hypervolume" in same_runs(folders)[-1]
        assert len(read_evaluations(folders[1])) == 3


def test_a_kill_before_a_whole_model_is_saved_loses_no_evaluation(base_model, texts, tmp_path):
    """Of a training without a front; its last step ends an epoch."""
    flags = [
        *("--model_name_or_path", str(base_model), "--train_datasets", f"supervised:1:{texts}"),
        *("--max_length", "64", "--max_steps", "4", "--per_device_train_batch_size", "8"),
        *("--log_type", "none", "--progress", "false", "--save_interval", "4", "--need_eval"),
        *("--eval_datasets", f"supervised:8/-1:{texts}", "--eval_strategy", "epoch"),
        "--output_dir",
    ]
    folders = tmp_path / "whole", tmp_path / "parts"
    sft([*flags, str(folders[0])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("safe_rlhf_panacea.base.trainer.TrainerBase.save", kill)
        with pytest.raises(Killed):
            sft([*flags, str(folders[1])])
    sft([*flags, str(folders[1]), "--resume"])
    first, second = map(metrics, folders)
    assert first == second and second[-1].keys() == {"step", "eval/loss"}


def test_a_checkpoint_counts_once_its_adapter_is_there(dpo_flags, tmp_path, monkeypatch):
    monkeypatch.setattr("safe_rlhf_panacea.algorithms.trainer.PanaceaTrainer.checkpointed", kill)
    with pytest.raises(Killed):
        dpo([*dpo_flags, "--max_steps", "2", "--save_interval", "1"])
    assert not (tmp_path / "out" / "checkpoints" / "latest").exists()


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_dpo_with_accumulation_is_saved_between_updates(
    dpo_flags, pairs, tmp_path, stop_at, strategy
):
    flags = [*dpo_flags, "--max_steps", "20", "--save_interval", "3"]
    flags += [*evaluating(f"pairs:8/-1:{pairs}", 4, rows=1), "--eval_strategy", strategy]
    flags += ["--gradient_accumulation_steps", "2"]
    folders = both_ways(dpo, flags, tmp_path, stop_at, 10)
    tags = {path.name for path in (folders[0] / "checkpoints" / "model").glob("step-*")}
    assert tags == {"step-4", "step-6", "step-10", "step-12", "step-16", "step-18"}
    same_runs(folders)
    steps = [one.step for one in read_evaluations(folders[1])]
    assert steps == ([0, 4, 8, 12, 16, 20] if strategy == "steps" else [0, 8, 16, 20])


def test_sft(base_model, texts, tmp_path, stop_at):
    """With dropout; an epoch has 4 steps, so that updates of 3 go on in the next one."""
    model = shutil.copytree(base_model, tmp_path / "dropping")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    flags = [
        *("--model_name_or_path", str(model), "--train_datasets", f"supervised:1:{texts}"),
        *("--max_length", "64", "--max_steps", "12", "--per_device_train_batch_size", "8"),
        *("--gradient_accumulation_steps", "3", "--lr", "1e-3"),
        *("--log_type", "none", "--progress", "false", "--save_interval", "2"),
    ]
    folders = both_ways(sft, flags, tmp_path, stop_at, 8)
    assert same_tensors(folders, "model.safetensors")


def test_panacea_sft(sft_flags, tmp_path, stop_at):
    flags = [*sft_flags, "--max_steps", "12", "--save_interval", "3", "--aggregation", "tche"]
    flags += ["--gradient_accumulation_steps", "2", "--need_eval", "--eval_split_ratio", "0.2"]
    flags += ["--eval_strategy", "steps", "--eval_interval", "6", "--preference_scope", "sample"]
    flags += ["--eval_grid_step", "1", "--eval_prompts", "2"]
    folders = both_ways(panacea_sft, flags, tmp_path, stop_at, 10)
    same_runs(folders)
    assert [one.step for one in read_evaluations(folders[1])] == [0, 6, 12]


def test_wandb_goes_on_in_the_same_run(dpo_flags, tmp_path, stop_at, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    flags = [*dpo_flags, "--max_steps", "4", "--save_interval", "2", "--log_type", "wandb"]
    stop_at(4)
    with pytest.raises(Interrupted):
        dpo(flags)
    wandb.finish()  # the process is gone, and its run with it
    first = json.loads((tmp_path / "out" / "wandb_run.json").read_text())
    (tmp_path / "out" / "wandb").rename(tmp_path / "before")
    stop_at(None)
    dpo([*flags, "--resume"])
    assert json.loads((tmp_path / "out" / "wandb_run.json").read_text()) == first
    records = offline_records(tmp_path / "out")
    assert next(r["run"]["run_id"] for r in records if r["type"] == "run") == first["id"]
    steps = [r["history"]["item"]["_step"] for r in records if r["type"] == "history"]
    assert steps == [3, 4]


def refused(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        dpo(flags)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def flipped(content):
    """One byte in the middle is another."""
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.fixture
def interrupted(dpo_flags, pairs, tmp_path, stop_at):
    """Flags of a run on data of its own that failed after its checkpoint."""
    data = tmp_path / "pairs.jsonl"
    shutil.copy(pairs, data)
    flags = [*dpo_flags, "--max_steps", "4", "--save_interval", "2"]
    flags += ["--train_datasets", f"pairs:1:{data}"]
    stop_at(4)
    with pytest.raises(Interrupted):
        dpo(flags)
    stop_at(None)
    return flags


def test_other_data_of_the_same_size_are_refused(interrupted, tmp_path, capsys):
    data = tmp_path / "pairs.jsonl"
    text = data.read_text()
    lines = text.splitlines(keepends=True)
    data.write_text("".join([lines[1], lines[0], *lines[2:]]))
    message = refused([*interrupted, "--resume"], capsys)
    assert "the data of --train_datasets have changed since the run began" in message
    data.write_text(text)
    dpo([*interrupted, "--resume"])
    assert is_finished(tmp_path / "out")


def test_a_base_model_that_has_changed_is_refused(interrupted, base_model, tmp_path, capsys):
    copy = shutil.copytree(base_model, tmp_path / "base")
    at = interrupted.index("--model_name_or_path") + 1
    flags = [*interrupted[:at], str(copy), *interrupted[at + 1 :]]
    file = tmp_path / "out" / "run.json"
    record = json.loads(file.read_text())
    record["args"]["model_name_or_path"] = str(copy)
    file.write_text(json.dumps(record))
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] += 0.1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    message = refused([*flags, "--resume"], capsys)
    assert "the policy's base model is not the one that the run began with" in message
    assert "down_proj" in message and not is_finished(tmp_path / "out")


CONSTANT = ("--lr_scheduler_type", "constant", "--save_interval", "2")


@pytest.mark.parametrize(("length", "finished"), [("max_steps", True), ("epochs", False)])
def test_a_constant_schedule_goes_on_to_more_steps(length, finished, dpo_flags, tmp_path, stop_at):
    """An epoch has eight steps."""
    at = dpo_flags.index("--max_steps")
    flags = [*dpo_flags[:at], *dpo_flags[at + 2 :], *CONSTANT]
    first, second = (6, 10) if length == "max_steps" else (1, 2)
    folders = tmp_path / "whole", tmp_path / "parts"
    dpo([*flags, f"--{length}", str(second), "--output_dir", str(folders[0])])
    flags += ["--output_dir", str(folders[1]), f"--{length}"]
    stop_at(None if finished else 5)
    with nullcontext() if finished else pytest.raises(Interrupted):
        dpo([*flags, str(first)])
    stop_at(9)
    with pytest.raises(Interrupted):
        dpo([*flags, str(second), "--resume"])
    assert not is_finished(folders[1])  # not any more
    stop_at(None)
    dpo([*flags, str(second), "--resume"])
    assert same_tensors(folders, "adapter_model.safetensors")
    assert metrics(folders[0]) == metrics(folders[1])
    record = json.loads((folders[1] / "run.json").read_text())
    assert record["args"][length] == second and "finished_at" in record
    assert record["resumed"][0]["before"][length] == first
    assert "before" not in record["resumed"][1]


def test_what_cannot_be_made_longer_says_what_to_do(interrupted, dpo_flags, tmp_path, capsys):
    message = refused([*interrupted, "--resume", "--max_steps", "8"], capsys)
    assert "--max_steps was 4 and is 8" in message and "--lr_scheduler_type cosine" in message
    assert "finish it with its own flags" in message
    flags = [*dpo_flags, *CONSTANT, "--max_steps", "4", "--output_dir", str(tmp_path / "short")]
    dpo(flags)
    message = refused([*flags, "--resume"], capsys)
    assert "holds a finished run" in message and "a larger --max_steps" in message
    message = refused([*flags, "--resume", "--max_steps", "3"], capsys)
    assert "has made 4 steps already, and --max_steps and --epochs give 3" in message


def test_the_refusal_of_a_used_folder_names_resume_first(interrupted, tmp_path, capsys):
    message = refused(interrupted, capsys)
    assert re.search("already holds a run.* --resume .*step 2.* --overwrite", message)
    (tmp_path / "out" / "checkpoints" / "latest").unlink()
    message = refused(interrupted, capsys)
    assert "--resume" not in message and "no checkpoint" in message and "--overwrite" in message


@pytest.mark.parametrize("saved", [True, False])
def test_ctrl_c_says_how_to_go_on(saved, dpo_flags, capsys, monkeypatch):
    whole = Logger.log

    def log(self, metrics, step):
        if step == 3:
            raise KeyboardInterrupt
        whole(self, metrics, step)

    monkeypatch.setattr(Logger, "log", log)
    flags = [*dpo_flags, "--max_steps", "4"]
    with pytest.raises(SystemExit) as stopped:
        dpo([*flags, "--save_interval", "2"] if saved else flags)
    assert stopped.value.code == 130
    error = capsys.readouterr().err
    assert error.startswith("interrupted: ") and error.count("\n") == 1
    assert ("--resume goes on from step 2" in error) == saved and "--overwrite" in error


def test_an_older_record_and_what_a_kill_left(interrupted, tmp_path, capsys):
    """A flag that the record does not know counts as its default; half-written files go."""
    folder = tmp_path / "out"
    record = json.loads((folder / "run.json").read_text())
    del record["args"]["upstream_dpo_slice"], record["data"]
    record["args"]["total_training_steps"] = 4  # worked out, and recorded, by earlier versions
    (folder / "run.json").write_text(json.dumps(record))
    left = [folder / ".run.json.abc.tmp", folder / "checkpoints" / ".latest.abc.tmp"]
    for path in left:
        path.write_text("")
    message = refused([*interrupted, "--resume", "--upstream_dpo_slice"], capsys)
    assert "--upstream_dpo_slice was False and is True" in message
    dpo([*interrupted, "--resume"])
    assert is_finished(folder)
    assert not any(path.exists() for path in left)


def test_what_cannot_be_resumed(dpo_flags, tmp_path, stop_at, capsys):
    flags = [*dpo_flags, "--max_steps", "4"]
    assert "holds no run to resume" in refused([*flags, "--resume"], capsys)
    stop_at(4)
    with pytest.raises(Interrupted):
        dpo(flags)
    assert "holds no checkpoint to resume from" in refused([*flags, "--resume"], capsys)
    with pytest.raises(Interrupted):
        dpo([*flags, "--overwrite", "--save_interval", "2"])
    stop_at(None)
    both = [*flags, "--resume", "--overwrite"]
    assert "either resumed or overwritten" in refused(both, capsys)
    message = refused([*flags, "--resume", "--lr", "0.5"], capsys)
    assert "--lr was 0.005 and is 0.5" in message
    files = list((tmp_path / "out" / "checkpoints" / "model" / "step-2").glob("mp_rank*"))
    folder = tmp_path / "out"
    record = json.loads((folder / "run.json").read_text())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path, damaged, message in (
        (files[0], flipped(before[files[0]]), "is damaged: its checksum is another"),
        (files[0], before[files[0]][:1000], "step-2 cannot be loaded"),
        (folder / "run.json", json.dumps({**record, "processes": 4}).encode(), "by 4 processes"),
        (folder / "run.json", b"[]", "no record of a run"),
        (folder / "run.json", b"[" * 100_000, "run.json: not valid JSON: it is nested too deeply"),
        (folder / "checkpoints" / "latest", b"", "holds no checkpoint to resume from"),
        (folder / "checkpoints" / "latest", b"\xff", "latest is damaged"),
        (folder / "checkpoints" / "latest", b"step-7\n", "step-7 cannot be loaded: it is mis"),
        (folder / "metrics.jsonl", b'{"step": 1}\n{"ste\n', "metrics.jsonl:2: not valid JSON"),
        (folder / "metrics.jsonl", b"3\n", "metrics.jsonl:1: the line names no step"),
    ):
        path.write_bytes(damaged)
        assert message in refused([*flags, "--resume"], capsys)
        path.write_bytes(before[path])
        after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert after == before  # a refusal leaves everything as it was
    dpo([*flags, "--resume"])
    assert "holds a finished run" in refused([*flags, "--resume"], capsys)
