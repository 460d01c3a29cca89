# shellcheck shell=bash disable=SC2034 # used by the launchers
# Table 2 of the paper, row by row.

TABLE_2=(
    --max_length 512
    --scale_coeff 0.1
    --weight_decay 0.05
    --per_device_train_batch_size 16
    --per_device_eval_batch_size 16
    --gradient_accumulation_steps 1
    --gradient_checkpointing true
    --lora_dim 8
    --lora_scaling 512
    --only_optimize_lora true
    --lora_module_name layers.
    --pref_dim 2
    --lr_scheduler_type cosine
    --lr_warmup_ratio 0.03
    --epochs 1
    --seed 42
    --fp16 false
    --bf16 true
    --tf32 true
    --lr 0.0002
)
