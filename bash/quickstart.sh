#!/usr/bin/env bash
# From nothing to two Pareto fronts, in minutes, on a CPU.
#
# usage: bash bash/quickstart.sh [flags]
#
# Writes its own small corpus, then trains a base model, one reward model per objective
# (helpful, harmless), Panacea with DPO and with PPO, and Rewarded Soups beside each. Ends with
# answers at five λ, how Panacea's fronts compare with the soups', and where pictures, tables and
# numbers are. The link runs/latest then points to the run.
#
# needs:    Python 3.10 or newer with this package installed (`make quickstart` does both),
#           2 CPU cores, 4 GiB of memory, about 5 minutes; no accelerator,
#           no network, no account.
# example:  bash bash/quickstart.sh --seed 1
#
# All flags are passed on to `python -m safe_rlhf_panacea.miniature`.

# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

launch -- "$@"
