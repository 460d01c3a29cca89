# shellcheck shell=bash disable=SC2034 # used by common.sh
# Table 1 of the paper, row by row, and what replaces it in the miniature; sourced after common.sh.

table_1() {
    FLAGS+=(
        --max_length 512
        --kl_coeff 0.02
        --clip_range_ratio 0.2
        --clip_range_score 50.0
        --clip_range_value 5.0
        --ptx_coeff 16.0
        --epochs 2
        --update_iters 1
        --per_device_prompt_batch_size 16
        --per_device_train_batch_size 16
        --per_device_eval_batch_size 16
        --gradient_accumulation_steps 2
        --actor_lr 0.002
        --actor_weight_decay 0.01
        --actor_lr_scheduler_type cosine
        --actor_lr_warmup_ratio 0.03
        --actor_gradient_checkpointing true
        --critic_lr 0.001
        --critic_weight_decay 0.0
        --critic_lr_scheduler_type constant
        --critic_lr_warmup_ratio 0.03
        --critic_gradient_checkpointing true
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
        --num_return_sequences 1
        --repetition_penalty 1.0
    )
}

# Models, data and the factor of 5 on the harmless reward, from appendix D.
ppo_inputs() {
    FLAGS+=(
        --actor_model_name_or_path PKU-Alignment/alpaca-7b-reproduced
        --reward_models
            helpful=PKU-Alignment/beaver-7b-v1.0-reward
            "harmless=${RUNS}/reward-harmless"
        --reward_scales harmless=5
        --train_datasets PKU-SafeRLHF-v0/train
        --ptx_datasets alpaca
        --preference_scope batch
    )
}

# Sizes, and what goes with them: a model five orders of magnitude smaller learns in few steps
# only with larger learning rates, two updates per rollout and hardly any PTX loss; its rewards are
# standardised instead of multiplied by 5.
ppo_miniature() {
    FLAGS+=(
        --actor_model_name_or_path "${RUNS}/sft"
        --reward_models "helpful=${RUNS}/reward-helpful" "harmless=${RUNS}/reward-harmless"
        --reward_scales helpful=1 harmless=1
        --reward_calibration "${RUNS}/calibration.json"
        --train_datasets "prompts:1:${RUNS}/world/prompts-train.jsonl"
        --ptx_datasets "supervised:1:${RUNS}/world/sft.jsonl"
        --ptx_coeff 0.01
        --max_length 112
        --per_device_prompt_batch_size 64 --per_device_train_batch_size 64
        --gradient_accumulation_steps 1
        --actor_lr 5e-3 --critic_lr 5e-3
        --actor_gradient_checkpointing false --critic_gradient_checkpointing false
        --whiten_advantages true --update_iters 2
        --bf16 false --tf32 false
    )
}

# The front while training, for the dashboards; evaluating changes nothing in the training.
watch_ppo() {
    FLAGS+=(
        --need_eval true --eval_strategy steps --eval_interval 500
        --eval_datasets PKU-SafeRLHF-v0/test:128/-1
    )
}

watch_ppo_miniature() {
    FLAGS+=(
        --eval_interval 24
        --eval_datasets "prompts:64/-1:${RUNS}/world/prompts-tune.jsonl"
        --per_device_eval_batch_size 320
    )
}

prepare_miniature() {
    need_world
    need_sft
    need_rewards
}
