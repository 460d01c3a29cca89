"""The flags of rollouts that servers give, and what they must agree with."""

from __future__ import annotations

import argparse

from safe_rlhf_panacea.base import arguments
from safe_rlhf_panacea.errors import UserError

OWN, VLLM, AUTO = "own", "vllm", "auto"


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Who draws the responses, and how far it may be from the policy."""
    group = parser.add_argument_group("rollouts by vLLM (docs/scaling.md)")
    group.add_argument(
        "--rollout_engine", choices=(OWN, VLLM), default=OWN, help="who draws the responses"
    )
    group.add_argument(
        "--rollout_server",
        nargs="+",
        metavar="URL",
        help=f"of vLLM servers, or '{AUTO}' to start one, which ends with the run",
    )
    group.add_argument(
        "--rollout_server_flags",
        metavar="FLAGS",
        help="with auto: vLLM's own, in quotes, e.g. '--gpu-memory-utilization 0.4'",
    )
    group.add_argument(
        "--rollout_folder",
        metavar="DIR",
        help="where servers find the adapter after each update; default: rollouts in the output "
        "folder",
    )
    group.add_argument(
        "--rollout_timeout",
        type=arguments.positive_float,
        default=600.0,
        help="seconds for the responses to one prompt",
    )
    arguments.add_flag(
        group,
        "--rollout_stale",
        False,
        "ask for the next responses while those at hand are learnt from, so that they are of the "
        "policy one update before",
    )
    arguments.add_flag(
        group,
        "--vllm_importance_sampling_correction",
        False,
        "weight each token with the policy's probability over vLLM's, as TRL does (token_truncate)",
    )
    group.add_argument(
        "--vllm_importance_sampling_cap",
        type=arguments.positive_float,
        default=3.0,
        help="most that such a weight is",
    )


def check_engine(args: argparse.Namespace) -> None:
    """Whether these flags fit together.

    Raises:
        UserError: they do not.
    """
    if args.rollout_engine == OWN:
        for flag in ("rollout_server", "rollout_server_flags", "rollout_folder"):
            if getattr(args, flag) is not None:
                raise UserError(f"--{flag} belongs to --rollout_engine {VLLM}")
        for flag in ("rollout_stale", "vllm_importance_sampling_correction"):
            if getattr(args, flag):
                raise UserError(f"--{flag} belongs to --rollout_engine {VLLM}")
        return
    if args.rollout_server is None:
        raise UserError(
            f"--rollout_engine {VLLM} needs --rollout_server: addresses of servers, or {AUTO}"
        )
    if AUTO not in args.rollout_server:
        from safe_rlhf_panacea.rollouts.server import server_url

        args.rollout_server = [server_url(text) for text in args.rollout_server]
    elif args.rollout_server != [AUTO]:
        raise UserError(f"--rollout_server {AUTO} stands alone: it starts one server")
    if args.rollout_server_flags is not None and args.rollout_server != [AUTO]:
        raise UserError(f"--rollout_server_flags belongs to --rollout_server {AUTO}")
    if args.rollout_stale and args.update_iters > 1:
        raise UserError("--rollout_stale needs --update_iters 1: one update lies between")
