#!/usr/bin/env bash
# Panacea-PPO for helpful, harmless and concise answers.
#
# usage: bash bash/panacea_ppo_three_objectives.sh [flags]
#
# Trains one model for helpful, harmless and concise answers with PPO. Conciseness is a rule and not
# a model: r_max up to a length of c tokens, r_max + 1 - length / c beyond. The rest is Table 1's.
# The later version of the paper has this experiment; its c and r_max are not known to us, and the
# values here are a choice.
#
# needs:    as bash/panacea_ppo.sh.
# example:  bash bash/panacea_ppo_three_objectives.sh --size miniature

# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=bash/ppo_flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/ppo_flags.sh"

launch "${TABLE_1[@]}" --pref_dim 3 -- "$@"
