# shellcheck shell=bash disable=SC2034 # some are used by the scripts that source this
# Stages that are run once, and what reproduce_paper.sh makes of them; sourced after common.sh.
#
# A stage that came to its end leaves a file in done/ below --runs, and is skipped from then on.

ONLY=""  # --only
STAGES=0 # seen so far
LEFT=()  # not done yet

# -- flags ----------------------------------------------------------------------------------

read_stage_flags() {
    local rest=()
    while [[ $# -gt 0 ]]; do
        case "$1" in
            --only) need_value "$@" && ONLY="$2" && shift 2 ;;
            --only=*) ONLY="${1#*=}" && shift ;;
            *) rest+=("$1") && shift ;;
        esac
    done
    read_flags "${rest[@]}"
    EVALUATIONS="${RUNS}/evaluation"
    COMMON=(--size "${SIZE}" --runs "${RUNS}")
    [[ -z "${HOSTFILE}" ]] || COMMON+=(--hostfile "${HOSTFILE}")
    [[ -z "${NUM_GPUS}" ]] || COMMON+=(--num_gpus "${NUM_GPUS}")
    COMMON+=("${PASSED[@]}")
}

# Models, data and reference points of the evaluations.
choose_inputs() {
    if [[ "${SIZE}" == "miniature" ]]; then
        REWARD_MODELS=("helpful=${RUNS}/reward-helpful" "harmless=${RUNS}/reward-harmless")
        SCALES=(--reward_calibration "${RUNS}/calibration.json")
        SCALES_OF_THREE=(--reward_calibration "${RUNS}/calibration-three-objectives.json")
        PROMPTS=(--datasets "prompts:1:${RUNS}/world/prompts-eval.jsonl" --max_length 112)
        PAIRS=(--datasets "pairs:1:${RUNS}/world/pairs-eval.jsonl" --max_length 112)
        POINT=(-1.75 -1.25)
    else
        REWARD_MODELS=(helpful=PKU-Alignment/beaver-7b-v1.0-reward "harmless=${RUNS}/reward-harmless")
        SCALES=(--reward_scales harmless=5)
        SCALES_OF_THREE=("${SCALES[@]}")
        PROMPTS=(--datasets PKU-SafeRLHF-v0/test:1000/-1 --bf16 true)
        PAIRS=(--datasets PKU-SafeRLHF-v0/test --bf16 true)
        POINT=(-25 -25)
    fi
    REWARDS=(--reward_models "${REWARD_MODELS[@]}" "${SCALES[@]}")
    THREE=(--reward_models "${REWARD_MODELS[@]}" "$(concise_reward)" "${SCALES_OF_THREE[@]}")
}

# -- stages ---------------------------------------------------------------------------------

# stage NAME COMMAND...
stage() {
    local name="$1" started="${SECONDS}"
    shift
    STAGES=$((STAGES + 1))
    [[ -z "${ONLY}" || "${ONLY}" == "${name}" ]] || return 0
    if [[ -z "${ONLY}" && -f "${RUNS}/done/${name}" ]]; then
        [[ "${DRY_RUN}" == "true" ]] || echo "[${STAGES}] ${name}: done already"
        return 0
    fi
    LEFT+=("${name}")
    [[ "${DRY_RUN}" == "false" ]] || return 0
    echo "[${STAGES}] ${name}"
    "$@"
    mkdir -p "${RUNS}/done"
    echo "$((SECONDS - started)) seconds" >"${RUNS}/done/${name}"
}

summary() {
    if [[ -n "${ONLY}" && ${#LEFT[@]} -eq 0 ]]; then
        fail "--only ${ONLY}: no such stage"
    elif [[ "${DRY_RUN}" == "true" ]]; then
        printf '%d of %d stages are left to do:%s\n' "${#LEFT[@]}" "${STAGES}" \
            "$(printf ' %s' "${LEFT[@]}")"
    else
        echo "All ${STAGES} stages are done: ${RUNS}/report.html"
    fi
}

# training FOLDER LAUNCHER FLAG...
training() {
    local folder="$1" launcher="$2"
    shift 2
    # A dry run reads further flags as the training would: the launcher's own dry run checks them.
    if [[ "${DRY_RUN}" == "true" && ${#PASSED[@]} -gt 0 ]]; then
        bash "${ROOT}/bash/${launcher}" "${COMMON[@]}" --dry_run "$@" >/dev/null
    fi
    stage "${folder}" train "${RUNS}/${folder}" "${launcher}" "$@"
}

train() {
    local folder="$1" launcher="$2"
    shift 2
    is_finished "${folder}" && [[ -z "${ONLY}" ]] && return
    keep_aside "${folder}"
    bash "${ROOT}/bash/${launcher}" "${COMMON[@]}" "$@"
}

# What an interrupted run left is renamed, never overwritten.
keep_aside() {
    local number=1
    [[ -f "$1/run.json" ]] || return 0
    while [[ -e "$1.interrupted-${number}" ]]; do number=$((number + 1)); done
    mv "$1" "$1.interrupted-${number}"
    echo "kept as $1.interrupted-${number}: what was in $1"
}

# -- evaluations and figures ----------------------------------------------------------------------

front() {
    printf '%s\n' "${EVALUATIONS}/$1"
}

# The adapters of a baseline, one folder per line.
members() {
    local file
    for file in "${RUNS}/$1"/*/adapter_config.json; do
        [[ -f "${file}" && "${file}" != *.interrupted-* ]] && dirname "${file}"
    done
    return 0
}

# The adapters that a run kept on its way, in the order of their steps.
snapshots() {
    local file
    for file in "${RUNS}/$1"/checkpoints/adapter/step-*/adapter_config.json; do
        [[ -f "${file}" ]] && dirname "${file}"
    done | sort -V
    return 0
}

# evaluation NAME ppo|three|dpo FLAG...: a front, in evaluation/NAME. --members FOLDER stands for
# all adapters in a baseline's folder.
evaluation() {
    local name="$1" kind="$2"
    shift 2
    stage "evaluation-${name}" evaluate "${name}" "${kind}" "$@"
}

evaluate() {
    local name="$1" kind="$2" flags=(--output_dir "$(front "$1")" --overwrite --seed "${SEED}")
    shift 2
    case "${kind}" in
        ppo) flags+=("${PROMPTS[@]}" "${REWARDS[@]}" --reference_point "${POINT[@]}") ;;
        three) flags+=("${PROMPTS[@]}" "${THREE[@]}" --reference_point "${POINT[@]}" -2) ;;
        dpo) flags+=("${PAIRS[@]}" --reference_point 0.25 0.25) ;;
    esac
    if [[ "$1" == "--members" ]]; then
        local adapters
        mapfile -t adapters < <(members "$2")
        shift 2
        set -- --adapter "${adapters[@]}" "$@"
    fi
    "${PYTHON}" -m safe_rlhf_panacea.evaluation "${flags[@]}" "$@"
}

# figure NAME PROGRAM FLAG...: a figure, in figures/.
figure() {
    local name="$1" program="$2"
    shift 2
    stage "${name}" "${PYTHON}" "${ROOT}/eval/${program}" \
        --output_dir "${RUNS}/figures" --overwrite "$@"
}
