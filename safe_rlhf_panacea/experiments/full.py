"""The paper's size: models and data of appendix D; the launchers show the hyperparameters."""

from __future__ import annotations

from safe_rlhf_panacea.experiments.sizes import Size

_SFT_MODEL = "PKU-Alignment/alpaca-7b-reproduced"
# Of the published models, and so of what is trained on them.
_SAFE_RLHF = "--chat_template safe-rlhf"
_TRAIN = "--train_datasets PKU-SafeRLHF-v0/train"
_REWARDS = """
    --reward_models helpful=PKU-Alignment/beaver-7b-v1.0-reward harmless={runs}/reward-harmless"""
_CONCISE = " concise=safe_rlhf_panacea.reward_functions:concise?max_length=100,max_reward=4 "
_FIVE = " --reward_scales harmless=5 "

_REWARD = f"""
    --model_name_or_path {_SFT_MODEL} {_SAFE_RLHF} {_TRAIN}
    --eval_datasets PKU-SafeRLHF-v0/test --need_eval true --eval_strategy epoch"""
_PPO = f"""
    --actor_model_name_or_path {_SFT_MODEL} {_REWARDS} {_FIVE} {_SAFE_RLHF} {_TRAIN}
    --ptx_datasets alpaca --preference_scope batch"""
_GRPO = f"""
    --actor_model_name_or_path {_SFT_MODEL} {_REWARDS} {_FIVE} {_SAFE_RLHF} {_TRAIN}"""
_DPO = f"""
    --model_name_or_path {_SFT_MODEL} --objectives helpful harmless {_SAFE_RLHF} {_TRAIN}
    --preference_scope batch"""
# The front while training, for the dashboards; evaluating changes nothing in the training.
_EVAL = " --need_eval true --eval_strategy steps --eval_interval 500 "
_EVAL_PPO = f"{_EVAL} --eval_datasets PKU-SafeRLHF-v0/test:128/-1 "

_PROMPTS = "--datasets PKU-SafeRLHF-v0/test:1000/-1 --bf16 true"

SIZE = Size(
    runs="runs/paper",
    flags={
        "sft": f"--model_name_or_path huggyllama/llama-7b {_SAFE_RLHF} --train_datasets alpaca",
        "reward_helpful": f"{_REWARD} --objective helpful",
        "reward_harmless": f"{_REWARD} --objective harmless",
        "panacea_ppo": f"{_PPO} {_EVAL_PPO} --save_interval 1000",
        "panacea_grpo": f"{_GRPO} --preference_scope sample {_EVAL_PPO} --save_interval 1000",
        "rewarded_soups_grpo": _GRPO,
        "panacea_ppo_three_objectives": f"{_PPO} {_EVAL_PPO} {_REWARDS} {_CONCISE}",
        "rewarded_soups_ppo": _PPO,
        "discrete_policies_ppo": _PPO,
        "ablation_scaling": _PPO,
        "panacea_dpo": f"{_DPO} {_EVAL} --eval_datasets PKU-SafeRLHF-v0/test:512/-1",
        "rewarded_soups_dpo": _DPO,
        "discrete_policies_dpo": _DPO,
    },
    evaluations={
        "ppo": f"{_PROMPTS} {_REWARDS} {_FIVE} --reference_point -25 -25",
        "three": f"{_PROMPTS} {_REWARDS} {_CONCISE} {_FIVE} --reference_point -25 -25 -2",
        "dpo": "--datasets PKU-SafeRLHF-v0/test --bf16 true --reference_point 0.25 0.25",
    },
    published=("sft", "reward-helpful"),
)
