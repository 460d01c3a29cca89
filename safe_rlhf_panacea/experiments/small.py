"""SmolLM2-135M-Instruct and real helpful and harmless pairs: what a CPU trains in minutes to hours.

Model and pairs come from the hub, or from the folders that two environment variables name.
Learning rates and lengths suit a model fifty times smaller than the paper's; ranks are the tables'.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from safe_rlhf_panacea.experiments import rules
from safe_rlhf_panacea.experiments.rules import RuleSettings
from safe_rlhf_panacea.experiments.sizes import Size, has_fast_bfloat16

MODEL_VARIABLE, DATA_VARIABLE = "PANACEA_SMALL_MODEL", "PANACEA_SMALL_DATA"
HUB_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PAIRS_FILE = "hh-helpful-harmless-{split}.jsonl.gz"
HELPSTEER2_FILE = "helpsteer2-pairs-{split}.jsonl.gz"
OBJECTIVES = ("helpful", "harmless")
_REFERENCE = {"ppo": "-3 -3", "three": "-3 -3 -3", "dpo": "0.25 0.25"}

_MODEL = "--model_name_or_path {model} --chat_template auto"
_LENGTH = " --max_length 128 "
_CPU = f" {_LENGTH} --bf16 false --tf32 false "
_BATCH = " --per_device_train_batch_size 8 --per_device_eval_batch_size 16 "
_ONE_GO = f"{_BATCH} --gradient_accumulation_steps 1 "
_REWARD_MODELS = "--reward_models helpful={runs}/reward-helpful harmless={runs}/reward-harmless "
_CONCISE = " concise=safe_rlhf_panacea.reward_functions:concise?max_length=40,max_reward=1 "
_CALIBRATED = " --reward_calibration {runs}/calibration.json "
_CALIBRATED_THREE = " --reward_calibration {runs}/calibration-three-objectives.json "
_MANY = " --preference_scope sample --preference_sampler stratified "
_EVALUATED = " --need_eval true --eval_strategy steps --eval_interval 50 "
_STEPS = " --max_steps 100 "
# With reward models: updates of Panacea, and of each of the two ingredients of soups.
_UPDATES, _EACH = " --max_steps 60 --save_interval 30 ", " --max_steps 30 "
# With GRPO longer, and looked at on the way: after 60 and 120 updates there was no front.
GRPO_UPDATES = (60, 120, 180)
# Of policies: prompt and response; most of hh-rlhf's prompts leave room for 64 tokens and more.
_POLICY = " --max_length 96 --bf16 {bf16} "
# Equal steps in all: Panacea's, those of two ingredients of soups, of three discrete policies.
DPO_STEPS = 120
# Of one objective alone: on training pairs 4e-4 taught nothing in 20 steps, 1e-3 from the twentieth
# step on, and 3e-3 made all responses less likely. As in the paper, with one singular value for
# each objective, Panacea had learnt nothing at 1e-3 in 75 steps: it has twice that. With eight, and
# λ drawn for the labels, it learns at the soups' rate (docs/early_fronts.md).
_DPO_LR, _PAPER_DPO_LR = 1e-3, 2e-3
_EARLY = " --pref_rank 8 --preference_scope sample --preference_for_labels true "
_EARLY += " --preference_sampler vertices --vertex_probability 0.5 "
_DISCRETE = f" --grid_step 0.5 --max_steps {DPO_STEPS // 3} "
RULE_SETTINGS = RuleSettings()
LONGEST_RULE_PROMPT = 45  # tokens, of small/prompts.py with SmolLM2's template


def pairs(split: str, rows: int | None = None, kind: str = "pairs") -> str:
    """The data sets of a split, ready for a command line.

    Args:
        split: ``train`` or ``test``.
        rows: at random, half of each objective's on the hub; None: all.
        kind: ``pairs``, or ``chosen`` for their better responses as supervised text.
    """
    local = _local(PAIRS_FILE, split, rows, kind)
    if local:
        return local
    share = "" if rows is None else f":{rows // len(OBJECTIVES)}/-1"
    if kind == "chosen":
        return " ".join(f"hh-rlhf-{name}-dialogue{share}" for name in OBJECTIVES)
    return " ".join(f"hh-rlhf-{name}-preference/{split}{share}" for name in OBJECTIVES)


def _local(file: str, split: str, rows: int | None = None, kind: str = "pairs") -> str | None:
    """A split in the folder that the environment names; None where it names none."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        return None
    path = Path(folder).expanduser() / file.format(split=split)
    spec = f"{kind}:{1 if rows is None else f'{rows}/-1'}:{path}"
    return shlex.quote(spec.replace("{", "{{").replace("}", "}}"))


def helpsteer2(split: str) -> str:
    """HelpSteer2's pairs of a split, ``train`` or ``test``, ready for a command line."""
    hub = f"HelpSteer2/{'train' if split == 'train' else 'validation'}"
    return _local(HELPSTEER2_FILE, split) or hub


def of_rules(row: str) -> str:
    """A row of ``rules.py`` with what this size knows."""
    longest = str(LONGEST_RULE_PROMPT + RULE_SETTINGS.answer)
    return row.replace("{root}", "{runs}/rules").replace("{max_length}", longest)


def _pairwise() -> dict[str, str]:
    """The trainings on pairs, by their keys."""
    shared = f"""{_MODEL} --gradient_checkpointing false --lr {_DPO_LR} {_POLICY} --tf32 false
        {_ONE_GO} --per_device_train_batch_size 16 """
    dpo = f"{shared} --objectives {' '.join(OBJECTIVES)} --train_datasets {pairs('train')} "
    shown = f"{_EVALUATED} --eval_datasets {pairs('test', 32)} --reference_point 0.25 0.25 "
    conflict = f"{shared} --objectives helpfulness verbosity --train_datasets {helpsteer2('train')}"
    paper = f" {_MANY} --lr {_PAPER_DPO_LR} "
    return {
        "panacea_dpo": f"{dpo} {_EARLY} {shown} --max_steps {DPO_STEPS}",
        "pairs_panacea": f"{dpo} {_EARLY} --max_steps {DPO_STEPS}",
        "pairs_paper": f"{dpo} {paper} --max_steps {DPO_STEPS}",
        "rewarded_soups_dpo": f"{dpo} --max_steps {DPO_STEPS // 2}",
        "discrete_policies_dpo": f"{dpo} {_DISCRETE}",
        "panacea_helpsteer2": f"{conflict} {paper}",
        "helpsteer2": conflict,
    }


def _grpo_length(models: int) -> str:
    """Flags of one of so many models that share the updates; each length leaves a checkpoint."""
    steps, saved = GRPO_UPDATES[-1] // models, GRPO_UPDATES[0] // models
    return f" --max_steps {steps} --save_interval {saved} "


def _rewarded() -> dict[str, str]:
    """The trainings with reward models, by their keys."""
    shared = f"""
        --actor_model_name_or_path {{model}} --chat_template auto {_REWARD_MODELS}
        --reward_scales helpful=1 harmless=1 {_CALIBRATED} --train_datasets {pairs("train")}
        --actor_gradient_checkpointing false --tf32 false {_POLICY}"""
    ppo = f"""{shared} --actor_lr 1e-3
        --ptx_datasets {pairs("train", 1000, "chosen")} --ptx_coeff 0.1
        --critic_gradient_checkpointing false --per_device_prompt_batch_size 8 {_ONE_GO}"""
    grpo = f"""{shared} --num_return_sequences 4 --per_device_prompt_batch_size 8
        --per_device_train_batch_size 32 --per_device_eval_batch_size 16
        --gradient_accumulation_steps 1 {rules.LEARNING}"""
    shown = f"{_EVALUATED} --eval_datasets {pairs('test', 16)} "
    return {
        "panacea_ppo": f"{ppo} {_MANY} {shown} {_UPDATES}",
        "panacea_grpo": f"{grpo} {_MANY} {shown} {_grpo_length(1)}",
        "rewarded_soups_grpo": f"{grpo} {_grpo_length(len(OBJECTIVES))}",
        "panacea_ppo_three_objectives": f"{ppo} {shown} {_UPDATES} {_REWARD_MODELS} "
        f"{_CONCISE} {_CALIBRATED_THREE} --preference_scope sample",
        "rewarded_soups_ppo": f"{ppo} {_EACH}",
        "discrete_policies_ppo": f"{ppo} {_EACH}",
        "ablation_scaling": f"{ppo} {_MANY} {_UPDATES}",
    }


def _foundations() -> dict[str, str]:
    """What the policies start from or are rewarded by, by their keys."""
    reward = f"""{_MODEL} --train_datasets {pairs("train")} --eval_datasets {pairs("test", 200)}
        --gradient_checkpointing false --zero_stage 0 --lr 5e-5 {_STEPS} {_LENGTH} --bf16 {{bf16}}
        --tf32 false {_ONE_GO} --per_device_train_batch_size 16 """
    judged = f"{_MODEL} --datasets {pairs('test')} {_LENGTH}"
    calibrate = f"{_MODEL} --datasets {pairs('train', 128)} {_LENGTH} --seed {{seed}} "
    calibrate += _REWARD_MODELS
    return {
        "sft": f"""{_MODEL} --train_datasets {pairs("train", 1000, "chosen")}
            --gradient_checkpointing false --zero_stage 0 {_STEPS} {_CPU} {_ONE_GO}""",
        "reward_helpful": reward,
        "reward_harmless": reward,
        "agreement": f"{judged} {_REWARD_MODELS} --overwrite --output_file {{runs}}/agreement.json",
        "calibration": f"{calibrate} --output_file {{runs}}/calibration.json",
        "calibration-three-objectives": f"{calibrate} {_CONCISE} "
        "--output_file {runs}/calibration-three-objectives.json",
    }


def _evaluations() -> dict[str, str]:
    """The evaluations, by kind."""
    prompts = f"--datasets {pairs('test', 64)} {_POLICY} --grid_step 0.25 {_REWARD_MODELS}"
    # In bfloat16 the rounding of a pair's margin hides what a short training has moved.
    accuracy = f"--max_length 96 --grid_step 0.25 --reference_point {_REFERENCE['dpo']}"
    three = f"{_CONCISE} {_CALIBRATED_THREE} --reference_point {_REFERENCE['three']}"
    return {
        "ppo": f"{prompts} {_CALIBRATED} --reference_point {_REFERENCE['ppo']}",
        "three": f"{prompts} {three}",
        "dpo": f"--datasets {pairs('test', 520)} {accuracy}",
        "helpsteer2": f"--datasets {helpsteer2('test')} {accuracy}",
        "rules": of_rules(rules.EVALUATION),
    }


def size() -> Size:
    """The size, with the model and the pairs that the environment names."""
    flags = {**_foundations(), **_rewarded(), **_pairwise(), "rules": of_rules(rules.GRPO)}
    return Size(
        runs="runs/small",
        flags=flags,
        evaluations=_evaluations(),
        published=("sft",),
        prepares=(
            "reward-helpful",
            "reward-harmless",
            "calibration",
            "calibration-three-objectives",
        ),
        values={
            **rules.values(RULE_SETTINGS),
            "half": RULE_SETTINGS.steps // 2,
            "model": os.environ.get(MODEL_VARIABLE) or HUB_MODEL,
            "bf16": str(has_fast_bfloat16()).lower(),
            "dpo_steps": DPO_STEPS,
            "dpo_steps_each": DPO_STEPS // 2,
        },
    )
