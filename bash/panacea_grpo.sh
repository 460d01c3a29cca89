#!/usr/bin/env bash
# Panacea with GRPO: no critic.
#
# usage: bash bash/panacea_grpo.sh [flags]
#
# Trains one model for the whole Pareto front of helpful and harmless with GRPO: each prompt gets a
# group of responses at its λ, which are compared with each other, and there is no critic. The paper
# has no GRPO: these values are a choice, not tried at this size. Rows that Table 1 has too are
# Table 1's, but for the learning rate, the KL coefficient and the epochs.
#
# needs:    full and small: what bash/panacea_ppo.sh needs, without the supervised text; not run at
#           these sizes yet. miniature: a CPU, a few minutes once its models are there.
# example:  bash bash/panacea_grpo.sh --reward_models helpful=PKU-Alignment/beaver-7b-v1.0-reward \
#             harmless=path/to/reward-harmless
#           bash bash/panacea_grpo.sh --size miniature --seed 1

# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

GRPO=(
    --num_return_sequences 8
    --advantage normalize_then_sum
    --equal_steps false
    --kl_in loss
    --kl_coeff 0.05
    --clip_range_ratio 0.2
    --max_length 512
    --epochs 1
    --update_iters 1
    --per_device_prompt_batch_size 16
    --per_device_train_batch_size 16
    --per_device_eval_batch_size 16
    --gradient_accumulation_steps 8
    --actor_lr 0.001
    --actor_weight_decay 0.01
    --actor_lr_scheduler_type cosine
    --actor_lr_warmup_ratio 0.03
    --actor_gradient_checkpointing true
    --normalize_reward false
    --seed 42
    --fp16 false
    --bf16 true
    --tf32 true
    --lora_dim 8
    --lora_scaling 512
    --only_optimize_lora true
    --lora_module_name layers.
    --pref_dim 2
    --temperature 1.0
    --top_p 1.0
    --repetition_penalty 1.0
)

launch "${GRPO[@]}" -- "$@"
