#!/usr/bin/env bash
# From nothing to two Pareto fronts, in minutes, on a CPU.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

usage() {
    cat <<'TEXT'
usage: bash bash/quickstart.sh [flags]

Writes its own small corpus, then trains a base model, one reward model per objective
(helpful, harmless), Panacea with DPO and with PPO, and Rewarded Soups beside each. Ends with
two Pareto fronts: a picture, a table and a results file in the run folder.

needs:    Python 3.10 or newer with this package installed (`make quickstart` does both),
          2 CPU cores (4 are better), 4 GiB of memory, about 5 minutes; no accelerator,
          no network, no account.
example:  bash bash/quickstart.sh --seed 1
environment:
  PYTHON           the Python to use; default .venv/bin/python of this checkout, else python3
  OMP_NUM_THREADS  threads; default one per core, at most 4: these models are too small for more

All flags are passed on to `python -m safe_rlhf_panacea.miniature`.
TEXT
}

choose_python() {
    if [[ -n "${PYTHON:-}" ]]; then
        printf '%s\n' "${PYTHON}"
    elif [[ -x "${root}/.venv/bin/python" ]]; then
        printf '%s\n' "${root}/.venv/bin/python"
    else
        printf '%s\n' python3
    fi
}

# Looks for the libraries without importing them, which would take seconds.
is_ready() {
    "$1" -c 'import sys; from importlib.util import find_spec
sys.exit(not all(map(find_spec, ("torch", "transformers", "deepspeed", "moocore"))))' 2>/dev/null
}

python="$(choose_python)"
# The sources beside this script are what runs, from whichever folder it is started.
export PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}"

for argument in "$@"; do
    if [[ "${argument}" == "-h" || "${argument}" == "--help" ]]; then
        usage
        if is_ready "${python}"; then
            echo
            exec "${python}" -m safe_rlhf_panacea.miniature --help
        fi
        exit 0
    fi
done

if ! is_ready "${python}"; then
    echo "error: ${python} lacks this package's libraries; run 'make quickstart' once, or set PYTHON" >&2
    exit 2
fi

if [[ -z "${OMP_NUM_THREADS:-}" ]]; then
    cores="$(getconf _NPROCESSORS_ONLN)"
    if command -v nproc >/dev/null; then
        cores="$(nproc)" # knows which cores this process may use
    fi
    export OMP_NUM_THREADS="$((cores < 4 ? cores : 4))"
fi
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
export WANDB_MODE="${WANDB_MODE:-offline}"

exec "${python}" -m safe_rlhf_panacea.miniature "$@"
