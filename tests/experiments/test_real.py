"""The real fronts: every row is a command line of its program, and steps are equal."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from safe_rlhf_panacea.algorithms.dpo import main as dpo
from safe_rlhf_panacea.algorithms.grpo import main as grpo
from safe_rlhf_panacea.baselines import rewarded_soups
from safe_rlhf_panacea.dry_run import resolve
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.evaluation import agreement, compare
from safe_rlhf_panacea.evaluation import main as evaluation
from safe_rlhf_panacea.experiments import small
from safe_rlhf_panacea.experiments.main import read_flags
from safe_rlhf_panacea.experiments.real import (
    COMPARE,
    PAIR_SEEDS,
    REAL,
    REAL_PAIRS,
    REAL_RULES,
    RULE_SEEDS,
)
from safe_rlhf_panacea.experiments.rules import RuleSettings
from safe_rlhf_panacea.experiments.runner import Reproduction
from safe_rlhf_panacea.experiments.small import GRPO_UPDATES
from safe_rlhf_panacea.experiments.table import DPO, EVALUATION, GRPO, SOUPS
from safe_rlhf_panacea.small import prompts
from safe_rlhf_panacea.small.stages import Small
from tests.launchers.shell import dry_run, run

SCRIPT = "real_fronts.sh"
PARSERS = {
    DPO: dpo.parse_arguments,
    GRPO: grpo.parse_arguments,
    SOUPS: lambda words: rewarded_soups.plan(words)[1],
    EVALUATION: lambda words: evaluation.build_parser().parse_args(words),
    COMPARE: lambda words: compare.build_parser().parse_args(words),
    "safe_rlhf_panacea.evaluation.agreement": lambda words: agreement.build_parser().parse_args(
        words
    ),
    "safe_rlhf_panacea.small.prompts": lambda words: prompts.build_parser().parse_args(words),
    "eval/over_seeds.py": lambda words: over_seeds().build_parser().parse_args(words),
}


def over_seeds():
    """The program of a file, not of a module."""
    path = Path(__file__).resolve().parents[2] / "eval" / "over_seeds.py"
    spec = importlib.util.spec_from_file_location("over_seeds_of_the_rows", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def local_copies(monkeypatch, tmp_path):
    """Not for ``dry_run``'s memory, which other tests share: they go around it."""
    monkeypatch.setenv(small.MODEL_VARIABLE, "model")
    monkeypatch.setenv(small.DATA_VARIABLE, str(tmp_path / "data"))


@pytest.fixture
def reproduction(tmp_path):
    """Runs of which the folders of several adapters are there."""
    for name in (
        "rewarded-soups-ppo",
        "rewarded-soups-grpo",
        "helpsteer2-soups",
    ):
        (tmp_path / name / "a").mkdir(parents=True)
    for updates in GRPO_UPDATES[:-1]:
        step = f"rewarded-soups-grpo/a/checkpoints/adapter/step-{updates // 2}"
        (tmp_path / step).mkdir(parents=True)
    for seed in PAIR_SEEDS:
        (tmp_path / "pairs" / f"seed-{seed}" / "soups" / "a").mkdir(parents=True)
    return Reproduction(tmp_path, "small")


def read(reproduction, stage):
    return PARSERS[stage.program](reproduction.flags(stage))


def named(rows):
    return {stage.name: stage for stage in rows}


@pytest.mark.parametrize("stage", [s for s in REAL if not s.launcher], ids=lambda s: s.name)
def test_every_row_is_a_command_line_of_its_program(stage, reproduction):
    assert "{" not in " ".join(reproduction.flags(stage))
    read(reproduction, stage)


def test_every_name_is_there_once():
    assert len(named(REAL)) == len(REAL)


def test_pairs_are_compared_at_equal_steps(reproduction):
    rows = named(REAL_PAIRS)
    for seed in PAIR_SEEDS:
        panacea, paper, soups = (
            read(reproduction, rows[f"pairs-{seed}-{name}"])
            for name in ("panacea", "paper", "soups")
        )
        assert panacea.max_steps == paper.max_steps == 2 * soups.max_steps == small.DPO_STEPS
        assert panacea.seed == paper.seed == soups.seed == seed
        assert (panacea.lr, paper.lr, soups.lr) == (1e-3, 2e-3, 1e-3)
        assert (panacea.pref_rank, panacea.preference_for_labels) == (8, True)
        assert (paper.pref_rank, paper.preference_for_labels) == (1, False)  # Table 2
        assert paper.scaling_lr_multiplier == 1
        assert panacea.lora_scaling / panacea.lora_dim == soups.lora_scaling / soups.lora_dim
        for flags in (panacea, paper, soups):
            assert not flags.need_eval  # the test part is looked at once, at the end
            for name in ("per_device_train_batch_size", "train_datasets", "max_length"):
                assert vars(flags)[name] == vars(panacea)[name]


def test_discrete_policies_have_their_share_of_the_steps():
    report = dry_run.__wrapped__("discrete_policies_dpo.sh", "--size", "small")
    assert 3 * report["hyperparameters"]["max_steps"] == small.DPO_STEPS
    command = report["command"].split()
    assert command[len(command) - command[::-1].index("--grid_step")] == "0.5"


def test_seeds_are_compared_in_one_order(reproduction):
    found = [stage for stage in REAL if stage.program == "eval/over_seeds.py"]
    assert [stage.name for stage in found] == [
        "pairs-over-seeds-panacea",
        "pairs-over-seeds-panacea-log-sigmoid",
        "pairs-over-seeds-paper",
        "pairs-over-seeds-paper-log-sigmoid",
        "rules-over-seeds-panacea",
        "rules-over-seeds-soups-twice",
    ]
    for stage in found:
        args = read(reproduction, stage)
        seeds = [re.search(r"seed-(\d+)", folder)[1] for folder in args.runs]
        assert seeds == [re.search(r"seed-(\d+)", folder)[1] for folder in args.baselines]
        assert seeds == list(map(str, PAIR_SEEDS if "pairs" in stage.name else RULE_SEEDS))
        assert all("/soups" in folder for folder in args.baselines)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_rewards_are_compared_at_equal_updates(algorithm):
    panacea, soups = (
        dry_run.__wrapped__(f"{name}_{algorithm}.sh", "--size", "small")["hyperparameters"]
        for name in ("panacea", "rewarded_soups")
    )
    assert panacea["max_steps"] == 2 * soups["max_steps"]
    shared = ("actor_lr", "kl_coeff", "max_length", "bf16", "num_return_sequences")
    for name in (*shared, "per_device_prompt_batch_size", "per_device_train_batch_size"):
        assert panacea[name] == soups[name]


def test_reward_models_are_compared_at_every_length(reproduction):
    rows = named(REAL)
    for name, share in {"panacea-grpo": 1, "rewarded-soups-grpo": 2}.items():
        script = f"{name.replace('-', '_')}.sh"
        launched = dry_run.__wrapped__(script, "--size", "small")["hyperparameters"]
        assert launched["max_steps"] == GRPO_UPDATES[-1] // share
        assert launched["actor_lr_scheduler_type"] == "constant"  # else no step is a shorter run
        assert rows[name].flags == "--need_eval false"
        for updates in GRPO_UPDATES:
            step = updates // share
            assert step % launched["save_interval"] == 0
            whole = step == launched["max_steps"]
            folder = f"{reproduction.runs}/{name}" + ("/a" if share == 2 else "")
            ends = "" if whole else f"/checkpoints/adapter/step-{step}"
            asked = read(reproduction, rows[f"evaluation-{name}-{updates}"])
            assert asked.adapter == [folder + ends]


def test_rules_are_trained_as_make_small_trains_them(reproduction, tmp_path):
    """But for seed and folders, and the evaluations on the way."""
    settings = RuleSettings()
    made = Small(tmp_path, tmp_path, 0, settings, bf16=True)
    longest = small.LONGEST_RULE_PROMPT
    for seed in RULE_SEEDS:
        stages = named(REAL_RULES)
        panacea = read(reproduction, stages[f"rules-{seed}-panacea"])
        soups = read(reproduction, stages[f"rules-{seed}-soups"])
        assert panacea.seed == soups.seed == seed
        assert panacea.max_steps == soups.max_steps == settings.steps
        assert soups.save_interval == settings.steps // 2  # two of them: as many as Panacea has
        assert (panacea.lora_dim, soups.lora_dim) == (8, 9)
        assert panacea.lora_scaling / 8 == soups.lora_scaling / 9
        assert panacea.max_length == longest + settings.answer
        same = vars(panacea).keys() - {
            *("seed", "output_dir", "overwrite", "max_steps", "save_interval", "objectives"),
            *("lora_dim", "lora_scaling", "preference_scope", "preference_sampler"),
        }
        assert {k: vars(panacea)[k] for k in same} == {k: vars(soups)[k] for k in same}
    from safe_rlhf_panacea.experiments import rules

    made.max_length = longest + settings.answer
    theirs = grpo.parse_arguments(made.flags(rules.GRPO + rules.PANACEA, "--output_dir", "x"))
    for name in ("actor_lr", "kl_coeff", "num_return_sequences", "max_steps", "preference_scope"):
        assert vars(theirs)[name] == vars(panacea)[name]


def test_the_prompts_of_the_rules_are_written(tmp_path, capsys):
    prompts.main(["--output_dir", str(tmp_path / "new" / "rules")])
    assert "prompts-eval.jsonl: 96 prompts" in capsys.readouterr().out
    files = sorted(path.name for path in (tmp_path / "new" / "rules").iterdir())
    assert files == ["prompts-eval.jsonl", "prompts-train.jsonl", "prompts-tune.jsonl"]


def test_comparisons_hold_panacea_against_soups(reproduction):
    found = [stage for stage in REAL if stage.program == COMPARE]
    assert len(found) == 2 + len(GRPO_UPDATES) + len(RULE_SEEDS)
    for stage in found:
        args = read(reproduction, stage)
        assert args.baseline == "Rewarded Soups"
        assert any("soups" in run for run in args.runs)


def test_the_script_lists_what_is_left(tmp_path):
    result = run(SCRIPT, "--dry_run", "--runs", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert f"{len(REAL)} of {len(REAL)} stages are left to do: pairs-31-panacea" in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", ["miniature", "full"])
def test_other_sizes_do_not_have_it(size, tmp_path):
    result = run(SCRIPT, "--dry_run", "--size", size, "--runs", str(tmp_path))
    assert result.returncode == 2
    assert result.stderr == f"error: {SCRIPT} has no --size {size}: take --size small\n"


@pytest.mark.parametrize("flags", [("--max_steps", "3"), ("--need_eval", "true"), ("--seed",)])
def test_flags_that_would_make_steps_unequal_are_refused(flags, tmp_path):
    result = run(SCRIPT, "--dry_run", "--runs", str(tmp_path), *flags)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and flags[0] in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_its_runs_do_not_mix_with_those_of_reproductions():
    real = read_flags(SCRIPT, ["--seed", "3"])[1]
    assert (real.runs, real.size_name, real.values["seed"]) == (Path("runs/real"), "small", "3")
    assert read_flags("reproduce_paper.sh", ["--size", "small"])[1].runs == Path("runs/small")


def test_conflicting_pairs_are_compared_at_equal_steps(reproduction):
    rows = named(REAL)
    names = [f"helpsteer2-{method}" for method in ("ls", "tche", "soups")]
    ls, tche, soups = (read(reproduction, rows[name]) for name in names)
    assert ls.max_steps == tche.max_steps == 2 * soups.max_steps
    assert (ls.aggregation, tche.aggregation) == ("ls", "tche")
    assert ls.lora_scaling / ls.lora_dim == soups.lora_scaling / soups.lora_dim
    assert (ls.lr, tche.lr, soups.lr) == (2e-3, 2e-3, 1e-3)
    for name in ("per_device_train_batch_size", "train_datasets", "max_length", "seed"):
        assert vars(ls)[name] == vars(tche)[name] == vars(soups)[name]


def test_helpsteer2_from_the_hub(monkeypatch, reproduction):
    monkeypatch.delenv(small.DATA_VARIABLE)
    flags = Reproduction(reproduction.runs, "small").flags(named(REAL)["helpsteer2-ls"])
    values = resolve(DPO, flags)[0]
    assert values["train_datasets"] == ["HelpSteer2/train"]
    assert values["objectives"] == ["helpfulness", "verbosity"]
    assert values["max_steps"] == small.DPO_STEPS


def test_a_missing_file_is_told_before_the_first_stage_and_only_of_stages_that_run(
    monkeypatch, tmp_path
):
    for split in ("train", "test"):
        (tmp_path / small.PAIRS_FILE.format(split=split)).touch()
    monkeypatch.setenv(small.DATA_VARIABLE, str(tmp_path))
    runs = Reproduction(tmp_path / "runs", "small")
    missing = tmp_path / small.HELPSTEER2_FILE.format(split="train")
    with pytest.raises(UserError, match=f"^{missing} is missing: the stage helpsteer2-ls needs it"):
        runs.run(SCRIPT)
    assert not (tmp_path / "runs").exists()
    monkeypatch.setattr(Reproduction, "_run_stage", lambda self, stage: done.append(stage.name))
    done: list[str] = []
    runs.run(SCRIPT, only="pairs-31-soups")
    assert done == ["pairs-31-soups"]
