# shellcheck shell=bash disable=SC2034 # used by the launchers
# Table 1 of the paper, row by row.

TABLE_1=(
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
