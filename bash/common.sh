# shellcheck shell=bash disable=SC2153 # NAME, MODULE and TABLE are a launcher's
# What the launchers share; sourced by them, not run.
#
# A launcher defines NAME (its folder below --runs), MODULE (the Python program), TABLE (what its
# values mirror), `usage`, `paper_flags` and `miniature_flags` (which fill FLAGS), and ends with
# `launch "$@"`. Flags of the command line come last, and the last one wins.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
SIZE="full"       # --size
RUNS=""           # --runs
HOSTFILE=""       # --hostfile
NUM_GPUS=""       # --num_gpus
DRY_RUN="false"   # --dry_run
SEED="42"         # of the miniature's world; follows --seed
FLAGS=()          # for the Python program: the paper's, then the miniature's
PASSED=()         # for the Python program: the command line's

fail() {
    echo "error: $*" >&2
    exit 2
}

((BASH_VERSINFO[0] * 10 + BASH_VERSINFO[1] >= 44)) || fail "bash ${BASH_VERSION} is older than 4.4"

common_usage() {
    cat <<'TEXT'

flags of every launcher:
  --size full|miniature   full: the paper's models, data and hyperparameters (default).
                          miniature: the same path on the quickstart's models and data, on a CPU
  --runs DIR              where all runs of one reproduction lie; default runs/paper,
                          or runs/miniature
  --dry_run               start nothing; print the resolved hyperparameters as one JSON object
  --num_gpus N            GPUs to use on this machine; default: all
  --hostfile FILE         several machines, as DeepSpeed's launcher reads them
  any other flag          goes to the Python program and wins over the launcher's;
                          PYTHON -m MODULE --help lists them
environment:
  PYTHON                  the Python to use; default .venv/bin/python of this checkout, else python3
  OMP_NUM_THREADS         threads; default of the miniature: one per core, at most 2
  WANDB_MODE              online, offline or disabled; default: offline without WANDB_API_KEY
TEXT
}

# -- Python ---------------------------------------------------------------------------------

choose_python() {
    if [[ -n "${PYTHON:-}" ]]; then
        printf '%s\n' "${PYTHON}"
    elif [[ -x "${ROOT}/.venv/bin/python" ]]; then
        printf '%s\n' "${ROOT}/.venv/bin/python"
    else
        printf '%s\n' python3
    fi
}

# Looks for the libraries without importing them, which would take seconds.
is_ready() {
    "${PYTHON}" -c 'import sys; from importlib.util import find_spec
sys.exit(not all(map(find_spec, ("torch", "transformers", "deepspeed", "moocore"))))' 2>/dev/null
}

need_python() {
    is_ready || fail "${PYTHON} lacks this package's libraries; run 'make quickstart' once, or set PYTHON"
}

PYTHON="$(choose_python)"
export PYTHON
# The launchers' flags are this package's own, also where Safe-RLHF is installed.
export PANACEA_BASE="${PANACEA_BASE:-port}"
# The sources beside the launchers are what runs, from whichever folder they are started.
export PYTHONPATH="${ROOT}${PYTHONPATH:+:${PYTHONPATH}}"

# -- this machine ---------------------------------------------------------------------------

has_gpu() {
    command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q .
}

cores() {
    if command -v nproc >/dev/null; then
        nproc # knows which cores this process may use
    else
        getconf _NPROCESSORS_ONLN
    fi
}

set_threads() {
    local cores
    cores="$(cores)"
    # The miniature's models gain a tenth from four, and lose everything where others use the cores.
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores < 2 ? cores : 2))}"
    export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
}

set_wandb() {
    if [[ -z "${WANDB_MODE:-}" && -z "${WANDB_API_KEY:-}" ]]; then
        export WANDB_MODE="offline"
        echo "wandb: no WANDB_API_KEY, so runs are logged offline (wandb sync uploads them later)" >&2
    fi
}

# Two launchers on one machine must not meet at the same port.
free_port() {
    "${PYTHON}" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

# The words that start MODULE, in START: DeepSpeed's launcher on GPUs, plain Python on a CPU.
choose_start() {
    local module="$1"
    START=("${PYTHON}")
    if [[ -z "${HOSTFILE}" ]] && ! has_gpu; then
        START+=(-m "${module}")
        return
    fi
    START+=(-m deepspeed.launcher.runner)
    [[ -n "${HOSTFILE}" ]] && START+=(--hostfile "${HOSTFILE}")
    [[ -n "${NUM_GPUS}" ]] && START+=(--num_gpus "${NUM_GPUS}")
    START+=(--master_port "$(free_port)" --module "${module}")
}

# -- the command line -------------------------------------------------------------------------

# Called with the words from a flag on.
need_value() {
    [[ $# -ge 2 ]] || fail "$1 needs a value"
}

read_flags() {
    while [[ $# -gt 0 ]]; do
        case "$1" in
            -h | --help) usage && common_usage && exit 0 ;;
            --dry_run) DRY_RUN="true" && shift ;;
            --size) need_value "$@" && SIZE="$2" && shift 2 ;;
            --runs) need_value "$@" && RUNS="$2" && shift 2 ;;
            --hostfile) need_value "$@" && HOSTFILE="$2" && shift 2 ;;
            --num_gpus) need_value "$@" && NUM_GPUS="$2" && shift 2 ;;
            --size=* | --runs=* | --hostfile=* | --num_gpus=*)
                set -- "${1%%=*}" "${1#*=}" "${@:2}"
                ;;
            --seed) need_value "$@" && SEED="$2" && PASSED+=("$1" "$2") && shift 2 ;;
            --seed=*) SEED="${1#*=}" && PASSED+=("$1") && shift ;;
            *) PASSED+=("$1") && shift ;;
        esac
    done
    [[ "${SIZE}" == "full" || "${SIZE}" == "miniature" ]] ||
        fail "--size ${SIZE} is neither full nor miniature"
    [[ -z "${NUM_GPUS}" || "${NUM_GPUS}" =~ ^[1-9][0-9]{0,3}$ ]] ||
        fail "--num_gpus ${NUM_GPUS} is not a number of GPUs"
    [[ -z "${HOSTFILE}" || -f "${HOSTFILE}" ]] || fail "--hostfile ${HOSTFILE}: no such file"
    if [[ -z "${RUNS}" ]]; then
        [[ "${SIZE}" == "full" ]] && RUNS="runs/paper" || RUNS="runs/miniature"
    fi
}

# Few steps see more of the simplex with one λ per sequence than with one per batch.
many_preferences() {
    FLAGS+=(--preference_scope sample --preference_sampler "${1:-stratified}")
}

# The third objective, a rule: full reward up to so many tokens, less beyond.
concise_reward() {
    local limits="max_length=100,max_reward=4"
    [[ "${SIZE}" == "full" ]] || limits="max_length=40,max_reward=1"
    printf '%s\n' "concise=safe_rlhf_panacea.reward_functions:concise?${limits}"
}

# -- what the miniature starts from -------------------------------------------------------------

is_finished() {
    [[ -f "$1/run.json" ]] && grep -q '"finished_at"' "$1/run.json"
}

# Run another launcher of the miniature, unless its folder is finished.
need_stage() {
    local launcher="$1" folder="$2"
    is_finished "${folder}" && return
    echo "== ${folder} is missing: ${launcher} first" >&2
    bash "${ROOT}/bash/${launcher}" --size miniature --runs "${RUNS}" --seed "${SEED}"
}

need_world() {
    [[ -f "${RUNS}/world/world.json" ]] && return
    "${PYTHON}" -m safe_rlhf_panacea.miniature.world --output_dir "${RUNS}/world" --seed "${SEED}"
}

need_sft() {
    need_stage sft.sh "${RUNS}/sft"
}

need_rewards() {
    need_stage reward_helpful.sh "${RUNS}/reward-helpful"
    need_stage reward_harmless.sh "${RUNS}/reward-harmless"
    need_calibration "${RUNS}/calibration.json"
}

# need_calibration FILE [NAME=REWARD ...]: the rewards' units, measured on the SFT model.
need_calibration() {
    local file="$1"
    shift
    [[ -f "${file}" ]] && return
    "${PYTHON}" -m safe_rlhf_panacea.evaluation.calibrate \
        --model_name_or_path "${RUNS}/sft" --output_file "${file}" \
        --reward_models "helpful=${RUNS}/reward-helpful" "harmless=${RUNS}/reward-harmless" "$@" \
        --datasets "prompts:256/-1:${RUNS}/world/prompts-train.jsonl" \
        --max_length 112 --batch_size 64 --seed "${SEED}"
}

# -- running ----------------------------------------------------------------------------------

dry_run() {
    choose_start "${MODULE}"
    "${PYTHON}" -m safe_rlhf_panacea.dry_run \
        --launcher "${NAME}" --module "${MODULE}" --table "${TABLE}" --size "${SIZE}" \
        --start "${START[*]}" --paper "${#PAPER[@]}" -- "${PAPER[@]}" "${FLAGS[@]}" "${PASSED[@]}"
}

# The whole of a launcher, once its variables and functions are there.
launch() {
    read_flags "$@"
    FLAGS=()
    paper_flags
    PAPER=("${FLAGS[@]}")
    FLAGS=()
    [[ "${SIZE}" == "full" ]] || miniature_flags
    need_python
    if [[ "${DRY_RUN}" == "true" ]]; then
        dry_run
        return
    fi
    set_wandb
    if [[ "${SIZE}" == "miniature" ]]; then
        set_threads
        export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
        prepare_miniature
    fi
    # The trainer keeps copies of these files beside its results.
    PANACEA_LAUNCHER="$(printf '%s:' "${BASH_SOURCE[-1]}" "${BASH_SOURCE[0]}" "${ROOT}"/bash/*_flags.sh)"
    export PANACEA_LAUNCHER
    choose_start "${MODULE}"
    "${START[@]}" "${PAPER[@]}" "${FLAGS[@]}" "${PASSED[@]}"
}
