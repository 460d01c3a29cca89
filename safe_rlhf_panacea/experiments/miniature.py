"""The miniature's rows, for its launchers, the quickstart, the benchmark and the suite ``front``.

These run the same rows with other steps (``settings.py``), and share what stands here once.
"""

from __future__ import annotations

from safe_rlhf_panacea.experiments.settings import LAUNCHED, OBJECTIVES, REFERENCE_POINTS
from safe_rlhf_panacea.experiments.sizes import Size

# Sequences of any seed's corpus fit; the others take the length of their own corpus, which is up
# to six tokens less, because their recorded figures were made with it.
MAX_LENGTH = 112

_CPU = " --bf16 false --tf32 false "
_REWARD_MODELS = "--reward_models helpful={runs}/reward-helpful harmless={runs}/reward-harmless "
_CONCISE = " concise=safe_rlhf_panacea.reward_functions:concise?max_length=40,max_reward=1 "
_PAIRS = "pairs:1:{runs}/world/pairs-eval.jsonl"
_CALIBRATED = " --reward_calibration {runs}/calibration.json "
_CALIBRATED_THREE = " --reward_calibration {runs}/calibration-three-objectives.json "
_REFERENCE = {name: " ".join(map(str, point)) for name, point in REFERENCE_POINTS.items()}

SFT = f"""
    --model_name_or_path {{runs}}/world/base
    --train_datasets supervised:1:{{runs}}/world/sft.jsonl
    --max_length {{max_length}} --max_steps {{sft_steps}}
    --per_device_train_batch_size {{sft_batch}} --gradient_accumulation_steps 1
    --lr {{sft_lr}} --weight_decay 0.01
    --gradient_checkpointing false --zero_stage 0 {_CPU}"""
REWARD = f"""
    --model_name_or_path {{runs}}/sft --train_datasets pairs:1:{{runs}}/world/pairs-train.jsonl
    --max_length {{max_length}} --max_steps {{reward_steps}}
    --per_device_train_batch_size {{reward_batch}} --gradient_accumulation_steps 1
    --lr {{reward_lr}} --weight_decay 0.01
    --gradient_checkpointing false --zero_stage 0 {_CPU}"""
# Sizes, and the larger learning rate that few steps of a model five orders of magnitude smaller
# need.
DPO = f"""
    --model_name_or_path {{runs}}/sft --objectives {" ".join(OBJECTIVES)}
    --train_datasets pairs:1:{{runs}}/world/pairs-train.jsonl
    --max_length {{max_length}}
    --per_device_train_batch_size {{dpo_batch}} --gradient_accumulation_steps 1
    --lr {{dpo_lr}} --gradient_checkpointing false {_CPU}"""
# Such a model learns in few steps only with larger learning rates and more updates per rollout;
# its rewards are standardised instead of multiplied by 5.
_REWARDED = f"""
    --actor_model_name_or_path {{runs}}/sft {_REWARD_MODELS}
    --reward_scales helpful=1 harmless=1 {_CALIBRATED}
    --train_datasets prompts:1:{{runs}}/world/prompts-train.jsonl
    --max_length {{max_length}} --actor_gradient_checkpointing false {_CPU}"""
PPO = f"""{_REWARDED}
    --kl_coeff {{kl_coeff}} --whiten_advantages true
    --per_device_prompt_batch_size {{ppo_batch}} --per_device_train_batch_size {{ppo_batch}}
    --gradient_accumulation_steps 1 --update_iters {{update_iters}}
    --actor_lr {{ppo_lr}} --critic_lr {{critic_lr}} --critic_gradient_checkpointing false """
GRPO = f"""{_REWARDED}
    --kl_coeff {{grpo_kl_coeff}} --num_return_sequences {{grpo_responses}}
    --per_device_prompt_batch_size {{grpo_prompts}} --per_device_train_batch_size {{grpo_batch}}
    --gradient_accumulation_steps 1 --update_iters {{update_iters}}
    --actor_lr {{grpo_lr}} """
# Few steps see more of the simplex with one λ per sequence than with one per batch.
MANY = " --preference_scope {preference_scope} --preference_sampler {preference_sampler} "
RANK_OF_BASELINES = " --lora_dim 9 --lora_scaling 576 "
# A coarse front on the way, on prompts that nothing else is measured on.
EVAL_PPO = f"""
    --need_eval true --eval_strategy steps --eval_interval {{eval_interval}}
    --eval_datasets prompts:{{prompts_on_the_way}}/-1:{{runs}}/world/prompts-tune.jsonl
    --per_device_eval_batch_size 320 --reference_point {_REFERENCE["ppo"]}"""
# What the figures of quickstart, benchmark and suite were recorded with: PPO without a PTX loss
# (there is no such data set) and the critic's former schedule. Table 1's, of the launchers:
AS_RECORDED = " --critic_lr_scheduler_type cosine "
_PTX = " --ptx_datasets supervised:1:{runs}/world/sft.jsonl --ptx_coeff 0.01 "

_EVAL_DPO = f"""
    --eval_interval 50 --eval_datasets pairs:128/-1:{{runs}}/world/pairs-eval.jsonl
    --per_device_eval_batch_size 256 --reference_point {_REFERENCE["dpo"]}"""
_CALIBRATE = f"""
    --model_name_or_path {{runs}}/sft --datasets prompts:256/-1:{{runs}}/world/prompts-train.jsonl
    --max_length {{max_length}} --batch_size 64 --seed {{seed}} {_REWARD_MODELS}"""
_STEPS_DPO, _STEPS_PPO = " --max_steps {dpo_steps} ", " --max_steps {ppo_steps} "
# As many for each of several models as an ingredient of the soups has: equal steps in all.
_EACH_DPO, _EACH_PPO = " --max_steps {dpo_steps_each} ", " --max_steps {ppo_steps_each} "
_PROMPTS = "--datasets prompts:1:{runs}/world/prompts-eval.jsonl --max_length {max_length}"

SIZE = Size(
    runs="runs/miniature",
    flags={
        "world": "--output_dir {runs}/world --seed {seed}",
        "sft": SFT,
        "reward_helpful": f"{REWARD} --eval_datasets {_PAIRS}",
        "reward_harmless": f"{REWARD} --eval_datasets {_PAIRS}",
        "calibration": f"{_CALIBRATE} --output_file {{runs}}/calibration.json",
        "calibration-three-objectives": f"{_CALIBRATE} {_CONCISE} "
        "--output_file {runs}/calibration-three-objectives.json",
        "panacea_ppo": f"{PPO} {_PTX} {MANY} {EVAL_PPO} {_STEPS_PPO} --save_interval 24",
        "panacea_grpo": f"{GRPO} {MANY} {EVAL_PPO} --max_steps {{grpo_steps}} --save_interval 24",
        "rewarded_soups_grpo": f"{GRPO} --max_steps {{grpo_steps_each}}",
        "panacea_ppo_three_objectives": f"{PPO} {_PTX} {EVAL_PPO} {_STEPS_PPO}"
        f"--preference_scope sample --preference_sampler uniform {_REWARD_MODELS} {_CONCISE}"
        f"{_CALIBRATED_THREE} --reference_point {_REFERENCE['three']}",
        "rewarded_soups_ppo": f"{PPO} {_PTX} {_EACH_PPO}",
        "discrete_policies_ppo": f"{PPO} {_PTX} {_EACH_PPO}",
        "ablation_scaling": f"{PPO} {_PTX} {MANY} {_STEPS_PPO}",
        "panacea_dpo": f"{DPO} {MANY} {_EVAL_DPO} {_STEPS_DPO}",
        "rewarded_soups_dpo": f"{DPO} {_EACH_DPO}",
        "discrete_policies_dpo": f"{DPO} {_EACH_DPO}",
    },
    evaluations={
        "ppo": f"{_PROMPTS} {_REWARD_MODELS} {_CALIBRATED} --reference_point {_REFERENCE['ppo']}",
        "three": f"{_PROMPTS} {_REWARD_MODELS} {_CONCISE} {_CALIBRATED_THREE} "
        f"--reference_point {_REFERENCE['three']}",
        "dpo": f"--datasets {_PAIRS} --max_length {{max_length}} "
        f"--reference_point {_REFERENCE['dpo']}",
    },
    prepares=(
        "world",
        "sft",
        "reward-helpful",
        "reward-harmless",
        "calibration",
        "calibration-three-objectives",
    ),
    offline=True,
    values={
        **vars(LAUNCHED),
        "max_length": MAX_LENGTH,
        "dpo_steps_each": LAUNCHED.dpo_steps // len(OBJECTIVES),
        "ppo_steps_each": LAUNCHED.ppo_steps // len(OBJECTIVES),
        "grpo_steps_each": LAUNCHED.grpo_steps // len(OBJECTIVES),
    },
)
