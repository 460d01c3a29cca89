#!/usr/bin/env bash
# Fronts of a real language model on real text: Panacea beside Rewarded Soups.
#
# usage: bash bash/real_fronts.sh [--only STAGE] [--seed SEED]
#
# SmolLM2-135M-Instruct, at equal total training steps: DPO on helpful and harmless pairs of
# hh-rlhf, with three seeds; GRPO for two rewards that are rules, with five seeds; DPO on
# HelpSteer2's pairs, helpfulness against verbosity; reward models for helpful and harmless, and
# PPO and GRPO with them. Every experiment ends with a comparison below --runs: a table with paired
# bootstrap intervals, a picture, the numbers as JSON. A stage that is finished is skipped, so the
# same command goes on after an interruption. --dry_run says what is left.
#
# needs:    the extra `small` installed (`make small` does it), a CPU with two cores, 6 GiB; a day
#           for all of it, an hour or two for each experiment. Model and pairs come from the hub, or
#           from the folders that PANACEA_SMALL_MODEL and PANACEA_SMALL_DATA name.
# example:  bash bash/real_fronts.sh --dry_run
#           bash bash/real_fronts.sh --only pairs-31-panacea
# Of further flags it takes --seed, of the pairs' trainings: others would make steps unequal.

# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

launch -- "$@"
