#!/usr/bin/env bash
# Panacea with DPO (Table 2).
#
# usage: bash bash/panacea_dpo.sh [--aggregation ls|tche] [flags]
#
# Trains one model for the whole Pareto front of helpful and harmless with DPO: Table 2, every row.
# The aggregation is linear scalarisation (ls, Eq. 14, the default) or Tchebycheff (tche, Eq. 16);
# the run lies in panacea-dpo-ls or panacea-dpo-tche.
#
# needs:    full: PKU-Alignment/alpaca-7b-reproduced, PKU-SafeRLHF (revision v0); the paper had eight
#           80 GB cards (hours not measured). miniature: a CPU, a minute once its models are there.
# example:  bash bash/panacea_dpo.sh --aggregation tche
#           bash bash/panacea_dpo.sh --size miniature --lora_dim 4

# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=bash/dpo_flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/dpo_flags.sh"

launch "${TABLE_2[@]}" --aggregation ls -- "$@"
