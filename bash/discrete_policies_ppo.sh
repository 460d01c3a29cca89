#!/usr/bin/env bash
# Discrete Policy Solutions with PPO: one model per λ, of rank k + 1 = 9.
#
# usage: bash bash/discrete_policies_ppo.sh [--grid_step STEP] [flags]
#
# Trains one model per preference vector with PPO, 11 of them (step 0.1), each of rank k + 1 = 9,
# in discrete-policies-ppo/<λ>. Everything else is Table 1's, and lora_scaling / lora_dim stays
# 64. Run again after an interruption, it goes on with the first model that is not finished.
#
# needs:    as bash/panacea_ppo.sh, eleven times. miniature: some minutes.
# example:  bash bash/discrete_policies_ppo.sh --grid_step 0.25

# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=bash/ppo_flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/ppo_flags.sh"

launch ppo --grid_step 0.1 "${TABLE_1[@]}" --lora_dim 9 --lora_scaling 576 -- "$@"
