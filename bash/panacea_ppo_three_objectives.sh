#!/usr/bin/env bash
# Panacea-PPO for helpful, harmless and concise answers.
set -euo pipefail
# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=bash/ppo_flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/ppo_flags.sh"

export NAME="panacea-ppo-three-objectives"
export MODULE="safe_rlhf_panacea.algorithms.ppo"
export TABLE="Table 1, with a third objective as in the paper's later version"

usage() {
    cat <<'TEXT'
usage: bash bash/panacea_ppo_three_objectives.sh [flags]

Trains one model for helpful, harmless and concise answers with PPO. Conciseness is a rule and not
a model: r_max up to a length of c tokens, r_max + 1 - length / c beyond. The rest is Table 1's.
The later version of the paper has this experiment; its c and r_max are not known to us, and the
values here are a choice.

needs:    as bash/panacea_ppo.sh.
example:  bash bash/panacea_ppo_three_objectives.sh --size miniature
TEXT
}

paper_flags() {
    table_1
    ppo_inputs
    watch_ppo
    FLAGS+=(
        --reward_models
            helpful=PKU-Alignment/beaver-7b-v1.0-reward
            "harmless=${RUNS}/reward-harmless"
            "$(concise_reward)"
        --pref_dim 3
        --output_dir "${RUNS}/panacea-ppo-three-objectives"
    )
}

miniature_flags() {
    ppo_miniature
    many_preferences uniform
    watch_ppo_miniature
    FLAGS+=(
        --reward_models
            "helpful=${RUNS}/reward-helpful"
            "harmless=${RUNS}/reward-harmless"
            "$(concise_reward)"
        --reward_calibration "${RUNS}/calibration-three-objectives.json"
        --max_steps 96 --reference_point -1.75 -1.25 -2
    )
}

prepare_miniature() {
    need_world
    need_sft
    need_rewards
    need_calibration "${RUNS}/calibration-three-objectives.json" "$(concise_reward)"
}

launch "$@"
