# shellcheck shell=bash disable=SC2034 # used by the launchers
# GRPO, which the paper does not have: Table 1's rows where it has them, but for the learning rate,
# the KL coefficient and the epochs.

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
