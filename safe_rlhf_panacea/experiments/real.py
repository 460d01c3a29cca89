"""Fronts of a real model on real text, for ``bash/real_fronts.sh``: rows like the paper's.

Four experiments: DPO on helpful and harmless pairs, whose conflict shows in the model and not in
single pairs; GRPO for two rules; DPO on pairs that carry both labels; reward models and then PPO
and GRPO. Panacea and Rewarded Soups have equal total steps everywhere, with DPO at learning rates
of their own (``small.py``); for the rules there are soups of twice the steps beside. The first two
run with several seeds, which are the units of what is said of the methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from safe_rlhf_panacea.experiments.rules import PANACEA
from safe_rlhf_panacea.experiments.small import GRPO_UPDATES
from safe_rlhf_panacea.experiments.table import (
    DPO,
    EVALUATION,
    GRPO,
    SOUPS,
    STAGES,
    Stage,
    evaluation_of,
    fronts_of,
)

COMPARE = "safe_rlhf_panacea.evaluation.compare"
PAIR_SEEDS = (31, 32, 33)
RULE_SEEDS = (21, 22, 23, 24, 25)
_RULE_METHODS = ("panacea", "soups", "soups-twice")
# As long as Panacea's training, a model each; the half of it is as long as Panacea's for all.
_RULE_SOUPS = "grpo --max_steps {steps} --save_interval {half} --lora_dim 9 --lora_scaling 576"


def _comparison(output: str, fronts: str) -> Stage:
    flags = f'--output_dir {output} --overwrite --baseline "Rewarded Soups"'
    name = output.removeprefix("{runs}/").replace("/", "-")
    return Stage(name, COMPARE, f"{fronts} {flags}")


def _helpsteer2(method: str, program: str, flags: str, members: str = "") -> tuple[Stage, Stage]:
    """A training on HelpSteer2's pairs, and its evaluation."""
    name = f"helpsteer2-{method}"
    output = f"--output_dir {{runs}}/{name} --seed {{seed}}"
    settings = "panacea_helpsteer2" if program == DPO else "helpsteer2"
    return (
        Stage(name, program, f"{flags} {output}", settings=settings),
        evaluation_of(name, "helpsteer2", f"--adapter {{runs}}/{name}{members}"),
    )


def _rules(seed: int) -> tuple[Stage, ...]:
    """Panacea and soups of equal and of twice the steps, with one seed."""
    home = f"{{runs}}/rules/seed-{seed}"
    soups, half = f"{home}/soups", "checkpoints/adapter/step-{half}"

    def trained(name: str, program: str, flags: str) -> Stage:
        flags = f"{flags} --seed {seed} --output_dir {home}/{name}"
        return Stage(f"rules-{seed}-{name}", program, flags, settings="rules")

    def evaluated(name: str, adapters: str, label: str) -> Stage:
        output = f"--output_dir {home}/evaluation/{name} --overwrite --seed {seed}"
        flags = f'{output} --label "{label}" {adapters}'
        return Stage(f"rules-{seed}-evaluation-{name}", EVALUATION, flags, evaluation="rules")

    of_soups = "--method rewarded_soups --adapter"
    equal = f"{of_soups} {soups}/positive/{half} {soups}/concise/{half}"
    return (
        trained("panacea", GRPO, f"{PANACEA} --overwrite true"),
        trained("soups", SOUPS, _RULE_SOUPS),
        evaluated("panacea", f"--adapter {home}/panacea", "Panacea"),
        evaluated("soups", equal, "Rewarded Soups"),
        evaluated("soups-twice", f"{of_soups} {soups}/positive {soups}/concise", "Soups, twice"),
        _comparison(
            f"{home}/comparison",
            " ".join(f"{home}/evaluation/{name}" for name in _RULE_METHODS),
        ),
    )


def _over_seeds(home: str, seeds: Sequence[int], name: str, below: str = "") -> Stage:
    """A method against soups of equal steps, the seeds as units.

    Args:
        home: the folder of the seeds' folders.
        seeds: of the trainings.
        name: of the method's evaluations.
        below: the folder in each evaluation; empty: the evaluation itself.
    """
    folders = [
        " ".join(f"{{runs}}/{home}/seed-{seed}/evaluation/{method}{below}" for seed in seeds)
        for method in (name, "soups")
    ]
    output = f"--output_dir {{runs}}/over-seeds/{home}-{name}{below} --overwrite"
    flags = f"--runs {folders[0]} --baselines {folders[1]} {output}"
    kind = below.replace("/", "-")
    return Stage(f"{home}-over-seeds-{name}{kind}", "eval/over_seeds.py", flags)


def _pairs(seed: int) -> Iterator[Stage]:
    """Panacea, Panacea as in the paper, and soups of equal steps, with one seed."""
    home = f"{{runs}}/pairs/seed-{seed}"
    trainings = {
        "panacea": (DPO, "pairs_panacea", "--overwrite true"),
        "paper": (DPO, "pairs_paper", "--overwrite true"),
        "soups": (SOUPS, "rewarded_soups_dpo", "dpo --lora_dim 9 --lora_scaling 576"),
    }
    labels = {"panacea": "Panacea", "paper": "Panacea as in the paper", "soups": "Rewarded Soups"}
    for name, (program, settings, flags) in trainings.items():
        flags = f"{flags} --seed {seed} --output_dir {home}/{name}"
        yield Stage(f"pairs-{seed}-{name}", program, flags, settings=settings)
    for name, label in labels.items():
        adapters = f"{home}/{name}" + ("/*" if name == "soups" else "")
        output = f"--output_dir {home}/evaluation/{name} --overwrite --seed {seed}"
        flags = f'{output} --label "{label}" --adapter {adapters}'
        yield Stage(f"pairs-{seed}-evaluation-{name}", EVALUATION, flags, evaluation="dpo")


# No front on the way: the test part is looked at once, at the end.
_UNSEEN = "--need_eval false"
_HELPSTEER2 = ("helpsteer2-ls", "helpsteer2-tche", "helpsteer2-soups")
_WHOLE = "--max_steps {dpo_steps} --overwrite true"
_HALF = "dpo --max_steps {dpo_steps_each} --lora_dim 9 --lora_scaling 576"
_PPO = ("panacea-ppo", "rewarded-soups-ppo")
_GRPO = ("panacea-grpo", "rewarded-soups-grpo")


def _grpo_fronts(updates: int) -> tuple[Stage, ...]:
    """Both methods after so many updates in all, and how they compare."""
    whole = updates == GRPO_UPDATES[-1]
    panacea, soups = ("" if whole else f"/checkpoints/adapter/step-{updates // n}" for n in (1, 2))
    members = f"--method rewarded_soups --adapter {{runs}}/rewarded-soups-grpo/*{soups}"
    names = [f"{name}-{updates}" for name in _GRPO]
    return (
        evaluation_of(names[0], "ppo", f"--adapter {{runs}}/panacea-grpo{panacea}"),
        evaluation_of(names[1], "ppo", members),
        _comparison(f"{{runs}}/comparison/grpo-{updates}", fronts_of(*names)),
    )


REAL_PAIRS = (
    *(stage for seed in PAIR_SEEDS for stage in _pairs(seed)),
    *(
        _over_seeds("pairs", PAIR_SEEDS, name, below)
        for name in ("panacea", "paper")
        for below in ("", "/log-sigmoid")
    ),
)
REAL_CONFLICT = (
    *_helpsteer2("ls", DPO, f"--aggregation ls {_WHOLE}"),
    *_helpsteer2("tche", DPO, f"--aggregation tche {_WHOLE}"),
    *_helpsteer2("soups", SOUPS, _HALF, "/*"),
    _comparison("{runs}/comparison/helpsteer2", fronts_of(*_HELPSTEER2)),
)
REAL_REWARDS = (
    *(STAGES[name] for name in ("reward-helpful", "reward-harmless")),
    Stage("agreement", "safe_rlhf_panacea.evaluation.agreement", makes="agreement.json"),
    *(replace(STAGES[name], flags=_UNSEEN) for name in (*_GRPO, *_PPO)),
    *(stage for updates in GRPO_UPDATES for stage in _grpo_fronts(updates)),
    *(STAGES[f"evaluation-{name}"] for name in _PPO),
    _comparison("{runs}/comparison/ppo", fronts_of(*_PPO)),
)
REAL_RULES = (
    Stage("rules-prompts", "safe_rlhf_panacea.small.prompts", "--output_dir {runs}/rules"),
    *(stage for seed in RULE_SEEDS for stage in _rules(seed)),
    _over_seeds("rules", RULE_SEEDS, "panacea"),
    _over_seeds("rules", RULE_SEEDS, "soups-twice"),
)
REAL = (*REAL_PAIRS, *REAL_RULES, *REAL_CONFLICT, *REAL_REWARDS)
