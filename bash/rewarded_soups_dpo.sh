#!/usr/bin/env bash
# Rewarded Soups with DPO: one model per objective, of rank k + 1 = 9.
#
# usage: bash bash/rewarded_soups_dpo.sh [flags]
#
# Trains one model per objective with DPO, each of rank k + 1 = 9, in rewarded-soups-dpo/<objective>.
# Their weights are interpolated when the soup is evaluated. Everything else is Table 2's, and
# lora_scaling / lora_dim stays 64. Run again after an interruption, it goes on where it was.
#
# needs:    as bash/panacea_dpo.sh, once per objective.
# example:  bash bash/rewarded_soups_dpo.sh --size miniature

# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=bash/dpo_flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/dpo_flags.sh"

launch dpo "${TABLE_2[@]}" --lora_dim 9 --lora_scaling 576 -- "$@"
