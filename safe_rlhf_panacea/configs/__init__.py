"""Typed options: one source for command lines, YAML files, records and Python."""

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.command_line import Program
from safe_rlhf_panacea.configs.options import Options, option

__all__ = ["Options", "Program", "kinds", "option"]
