#!/usr/bin/env bash
# What a machine with a GPU should show, in parts of under eight minutes.
#
# usage: bash eval/on_a_gpu.sh PART [--tiny] [flags of the part]
#
#   equal    the same numbers as on a CPU, to bfloat16's tolerance
#   launch   the launchers and DeepSpeed's launcher: bf16, tf32, fused AdamW, ZeRO 0 to 3
#   layer    the adapted layer and switching λ, against the frozen layer and PEFT
#   steps    steps of DPO and PPO, and a front, of a model of one billion parameters
#   memory   peak memory against `python -m safe_rlhf_panacea.memory`, 1B and 7B
#   vllm     rollouts by vLLM beside the package's own loop, and what an adapter costs to hand over
#   small    the launchers' small size, end to end (its data and its model must be at hand)
#
# Each leaves PART.json and PART.md in eval/gpu/found, or in the folder that OUTPUT names. --tiny
# runs the same on a CPU, in seconds. Only launch and steps need deepspeed;
# vllm needs vLLM, in this environment or in one that PANACEA_VLLM_PYTHON names.

set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON="python3"
    [[ -x "${ROOT}/.venv/bin/python" ]] && PYTHON="${ROOT}/.venv/bin/python"
fi
export PYTHON PYTHONPATH="${ROOT}${PYTHONPATH:+:${PYTHONPATH}}" PANACEA_BASE="${PANACEA_BASE:-port}"

part="${1:-}"
[[ $# -gt 0 ]] && shift
out="${OUTPUT:-${ROOT}/eval/gpu/found}"
tiny=""
if [[ "${1:-}" == "--tiny" ]]; then
    tiny="--tiny"
    shift
fi
benchmark() {
    mkdir -p "${out}"
    exec "${PYTHON}" "${ROOT}/eval/benchmarks/run.py" --output "${out}/${part}.md" "$@"
}

case "${part}" in
    equal | launch | memory)
        exec "${PYTHON}" "${ROOT}/eval/gpu/${part}.py" --output_dir "${out}" ${tiny} "$@" ;;
    small)
        exec "${PYTHON}" "${ROOT}/eval/gpu/launch.py" small --output_dir "${out}" ${tiny} "$@" ;;
    vllm) # not a vllm.py, which would hide the package from its neighbours
        exec "${PYTHON}" "${ROOT}/eval/gpu/rollouts.py" --output_dir "${out}" ${tiny} "$@" ;;
    layer)
        benchmark --parts layer switch ${tiny:+--size quick} "$@" ;;
    steps)
        if [[ -n "${tiny}" ]]; then
            benchmark --parts dpo ppo front --size quick "$@"
        fi
        benchmark --parts dpo ppo front --models 1b --rounds 3 --warmup 1 "$@" ;;
    *)
        sed -n '/^# usage:/,/^$/s/^# \{0,1\}//p' "$0" >&2
        [[ "${part}" == "-h" || "${part}" == "--help" ]] || exit 2 ;;
esac
