#!/usr/bin/env bash
# Rewarded Soups with PPO: one model per objective, of rank k + 1 = 9.
#
# usage: bash bash/rewarded_soups_ppo.sh [flags]
#
# Trains one model per objective with PPO, each of rank k + 1 = 9, in rewarded-soups-ppo/<objective>.
# Their weights are interpolated when the soup is evaluated. Everything else is Table 1's, and
# lora_scaling / lora_dim stays 64. Run again after an interruption, it goes on where it was.
#
# needs:    as bash/panacea_ppo.sh, once per objective.
# example:  bash bash/rewarded_soups_ppo.sh --size miniature

# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=bash/ppo_flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/ppo_flags.sh"

launch ppo "${TABLE_1[@]}" --lora_dim 9 --lora_scaling 576 -- "$@"
