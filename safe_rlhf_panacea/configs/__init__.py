"""Typed options: one source for command lines, YAML files, records and Python."""

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.command_line import Program
from safe_rlhf_panacea.configs.options import Options, configuration, option, options_of

__all__ = ["Options", "Program", "configuration", "kinds", "option", "options_of"]
