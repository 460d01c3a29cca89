#!/usr/bin/env bash
# Rewarded Soups with GRPO: one model per objective, of rank k + 1 = 9.
#
# usage: bash bash/rewarded_soups_grpo.sh [flags]
#
# Trains one model per objective with GRPO, each of rank k + 1 = 9, in rewarded-soups-grpo/<objective>.
# Their weights are interpolated when the soup is evaluated. Everything else is as in
# bash/panacea_grpo.sh, and lora_scaling / lora_dim stays 64. The paper has no GRPO. Run again after
# an interruption, it goes on where it was.
#
# needs:    as bash/panacea_grpo.sh, once per objective.
# example:  bash bash/rewarded_soups_grpo.sh --size miniature

# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=bash/grpo_flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/grpo_flags.sh"

launch grpo "${GRPO[@]}" --lora_dim 9 --lora_scaling 576 -- "$@"
