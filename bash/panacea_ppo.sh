#!/usr/bin/env bash
# Panacea with PPO (Table 1).
#
# usage: bash bash/panacea_ppo.sh [flags]
#
# Trains one model for the whole Pareto front of helpful and harmless with PPO: Table 1, every row.
# The harmless reward, trained by bash/reward_harmless.sh, is multiplied by 5 (appendix D).
#
# needs:    full: PKU-Alignment/alpaca-7b-reproduced, beaver-7b-v1.0-reward, a harmless reward
#           model, PKU-SafeRLHF (revision v0), tatsu-lab/alpaca; the paper had eight 80 GB cards
#           (hours not measured). miniature: a CPU, about two minutes once its models are there.
# example:  bash bash/panacea_ppo.sh --reward_models helpful=PKU-Alignment/beaver-7b-v1.0-reward \
#             harmless=path/to/reward-harmless
#           bash bash/panacea_ppo.sh --size miniature --seed 1

# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=bash/ppo_flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/ppo_flags.sh"

launch "${TABLE_1[@]}" -- "$@"
