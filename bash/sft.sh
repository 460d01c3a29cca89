#!/usr/bin/env bash
# The initial model: supervised fine-tuning.
#
# usage: bash bash/sft.sh [flags]
#
# Fine-tunes the initial model on supervised text. The paper needs no such run: it takes the
# published PKU-Alignment/alpaca-7b-reproduced, which was made with these values by Safe-RLHF.
#
# needs:    full: a licence for and a copy of huggyllama/llama-7b, tatsu-lab/alpaca, about eight
#           80 GB cards (hours not measured). miniature: a CPU, half a minute.
# example:  bash bash/sft.sh --model_name_or_path path/to/llama-7b --per_device_train_batch_size 2

# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

launch \
    --max_length 512 \
    --epochs 3 \
    --seed 42 \
    --per_device_train_batch_size 4 \
    --per_device_eval_batch_size 4 \
    --gradient_accumulation_steps 8 \
    --gradient_checkpointing true \
    --lr 2e-5 \
    --lr_scheduler_type cosine \
    --lr_warmup_ratio 0.03 \
    --weight_decay 0.0 \
    --bf16 true \
    --tf32 true \
    --zero_stage 3 \
    -- "$@"
