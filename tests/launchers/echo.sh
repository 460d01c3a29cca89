#!/usr/bin/env bash
# Stands in for Python: says, one a line, the words that a launcher would start it with.
printf '%s\n' "$@"
