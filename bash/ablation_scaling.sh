#!/usr/bin/env bash
# The ablation of section 5.2: fixed scaling factors instead of the learnt one (Figure 7).
#
# usage: bash bash/ablation_scaling.sh [--factors F ...] [flags]
#
# Trains Panacea-PPO with the scaling of the preference vector fixed at 1, 1e-1, ..., 1e-5 instead
# of learnt, in ablation-scaling/<factor>. The learnt one is bash/panacea_ppo.sh's run. Everything
# else is Table 1's. Run again after an interruption, it goes on where it was.
#
# needs:    as bash/panacea_ppo.sh, six times. miniature: some minutes.
# example:  bash bash/ablation_scaling.sh --factors 1 0.01

# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=bash/ppo_flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/ppo_flags.sh"

launch ppo --factors 1 1e-1 1e-2 1e-3 1e-4 1e-5 "${TABLE_1[@]}" -- "$@"
