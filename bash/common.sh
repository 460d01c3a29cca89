# shellcheck shell=bash
# Sourced by every launcher; not run.
#
# A launcher shows the paper's hyperparameters row by row. Models, data and everything that depends
# on --size are in safe_rlhf_panacea/experiments, which starts the program.

set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [[ -z "${PYTHON:-}" ]]; then
    PYTHON="python3"
    [[ -x "${ROOT}/.venv/bin/python" ]] && PYTHON="${ROOT}/.venv/bin/python"
fi
export PYTHON
# The launchers' flags are this package's own, also where Safe-RLHF is installed.
export PANACEA_BASE="${PANACEA_BASE:-port}"
# The sources beside the launchers are what runs, from whichever folder they are started.
export PYTHONPATH="${ROOT}${PYTHONPATH:+:${PYTHONPATH}}"

# launch [THE PAPER'S FLAGS ...] -- [THE USER'S FLAGS ...]
launch() {
    local word
    for word in "$@"; do
        # The help is the comment at the launcher's head, then the flags that all of them have.
        if [[ "${word}" == "-h" || "${word}" == "--help" ]]; then
            sed -n '/^# usage:/,/^$/s/^# \{0,1\}//p' "$0"
            echo
        fi
    done
    # The trainer keeps copies of these files beside its results.
    PANACEA_LAUNCHER="$0"
    for name in common ppo_flags dpo_flags grpo_flags; do
        PANACEA_LAUNCHER+=":${ROOT}/bash/${name}.sh"
    done
    export PANACEA_LAUNCHER
    exec "${PYTHON}" -m safe_rlhf_panacea.experiments "$(basename "$0")" "$@"
}
