#!/usr/bin/env bash
# Panacea with DPO (Table 2).
set -euo pipefail
# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=bash/dpo_flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/dpo_flags.sh"

export NAME="panacea-dpo"
export MODULE="safe_rlhf_panacea.algorithms.dpo"
export TABLE="Table 2"

usage() {
    cat <<'TEXT'
usage: bash bash/panacea_dpo.sh [--aggregation ls|tche] [flags]

Trains one model for the whole Pareto front of helpful and harmless with DPO: Table 2, every row.
The aggregation is linear scalarisation (ls, Eq. 14, the default) or Tchebycheff (tche, Eq. 16);
the run lies in panacea-dpo-ls or panacea-dpo-tche.

needs:    full: PKU-Alignment/alpaca-7b-reproduced, PKU-SafeRLHF (revision v0); the paper had eight
          80 GB cards (hours not measured). miniature: a CPU, a minute once its models are there.
example:  bash bash/panacea_dpo.sh --aggregation tche
          bash bash/panacea_dpo.sh --size miniature --lora_dim 4
TEXT
}

# The folder's name follows the last --aggregation.
aggregation() {
    local last="ls" previous="" word
    for word in "${PASSED[@]}"; do
        [[ "${previous}" == "--aggregation" ]] && last="${word}"
        [[ "${word}" == --aggregation=* ]] && last="${word#*=}"
        previous="${word}"
    done
    printf '%s\n' "${last}"
}

paper_flags() {
    table_2
    dpo_inputs
    watch_dpo
    FLAGS+=(--aggregation ls --output_dir "${RUNS}/panacea-dpo-$(aggregation)")
}

miniature_flags() {
    dpo_miniature
    many_preferences
    watch_dpo_miniature
    FLAGS+=(--max_steps 200 --reference_point 0.25 0.25)
}

launch "$@"
