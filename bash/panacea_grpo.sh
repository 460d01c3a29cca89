#!/usr/bin/env bash
# Panacea with GRPO: no critic.
#
# usage: bash bash/panacea_grpo.sh [flags]
#
# Trains one model for the whole Pareto front of helpful and harmless with GRPO: each prompt gets a
# group of responses at its λ, which are compared with each other, and there is no critic. The paper
# has no GRPO: these values are a choice, not tried at this size. Rows that Table 1 has too are
# Table 1's, but for the learning rate, the KL coefficient and the epochs.
#
# needs:    full and small: what bash/panacea_ppo.sh needs, without the supervised text; not run at
#           these sizes yet. miniature: a CPU, a few minutes once its models are there.
# example:  bash bash/panacea_grpo.sh --reward_models helpful=PKU-Alignment/beaver-7b-v1.0-reward \
#             harmless=path/to/reward-harmless
#           bash bash/panacea_grpo.sh --size miniature --seed 1

# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=bash/grpo_flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/grpo_flags.sh"

launch "${GRPO[@]}" -- "$@"
