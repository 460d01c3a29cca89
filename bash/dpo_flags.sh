# shellcheck shell=bash disable=SC2034 # used by common.sh
# Table 2 of the paper, row by row, and what replaces it in the miniature; sourced after common.sh.

table_2() {
    FLAGS+=(
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
}

# The model and the data, from appendix D.
dpo_inputs() {
    FLAGS+=(
        --model_name_or_path PKU-Alignment/alpaca-7b-reproduced
        --objectives helpful harmless
        --train_datasets PKU-SafeRLHF-v0/train
        --preference_scope batch
    )
}

# Sizes, and the larger learning rate that few steps of a model five orders of magnitude smaller
# need.
dpo_miniature() {
    FLAGS+=(
        --model_name_or_path "${RUNS}/sft"
        --train_datasets "pairs:1:${RUNS}/world/pairs-train.jsonl"
        --max_length 112
        --gradient_checkpointing false --lr 3e-3
        --bf16 false --tf32 false
    )
}

# The front while training, for the dashboards; evaluating changes nothing in the training.
watch_dpo() {
    FLAGS+=(
        --need_eval true --eval_strategy steps --eval_interval 500
        --eval_datasets PKU-SafeRLHF-v0/test:512/-1
    )
}

watch_dpo_miniature() {
    FLAGS+=(
        --eval_interval 50
        --eval_datasets "pairs:128/-1:${RUNS}/world/pairs-eval.jsonl"
        --per_device_eval_batch_size 256
    )
}

prepare_miniature() {
    need_world
    need_sft
}
