#!/usr/bin/env bash
# Every experiment and figure of the paper, in order.
#
# usage: bash bash/reproduce_paper.sh [--only STAGE] [flags]
#
# Runs every launcher, evaluates every front, draws every figure and ends with one page that shows
# all of them with the command that made each: report.html below --runs. A stage that is finished
# is skipped, so the same command goes on after an interruption: a training from its last checkpoint
# if it has one, else anew, with what was left of it kept beside. --dry_run says what is left.
#
# needs:    full: everything that the launchers need, one after the other (hours not measured).
#           miniature: a CPU with two cores, 4 GiB, about an hour.
# example:  bash bash/reproduce_paper.sh --size miniature --seed 1 --runs runs/seed-1
#           bash bash/reproduce_paper.sh --size miniature --dry_run
# All further flags go to every launcher that trains.

# shellcheck source=bash/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

launch -- "$@"
