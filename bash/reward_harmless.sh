#!/usr/bin/env bash
# The harmless reward model.
#
# usage: bash bash/reward_harmless.sh [flags]
#
# Trains the harmless reward model on PKU-SafeRLHF's labels safer_response_id, with Bradley-Terry's loss.
# The paper trains this one with the same objective as helpfulness, on the safety labels; it does
# not use Safe-RLHF's cost model. The paper gives no table for it: the values are Safe-RLHF's.
#
# needs:    full: PKU-Alignment/alpaca-7b-reproduced, PKU-SafeRLHF (revision v0), about eight 80 GB
#           cards (hours not measured). miniature: a CPU, half a minute.
# example:  bash bash/reward_harmless.sh --zero_stage 3 --offload optimizer

# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

launch \
    --max_length 512 \
    --epochs 2 \
    --seed 42 \
    --per_device_train_batch_size 16 \
    --per_device_eval_batch_size 16 \
    --gradient_accumulation_steps 1 \
    --gradient_checkpointing true \
    --regularization 0.001 \
    --lr 2e-5 \
    --lr_scheduler_type cosine \
    --lr_warmup_ratio 0.03 \
    --weight_decay 0.1 \
    --bf16 true \
    --tf32 true \
    --zero_stage 3 \
    -- "$@"
