"""The options of rollouts that vLLM servers give (``docs/scaling.md``)."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import Any, ClassVar, Literal

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.options import Options, configuration, option
from safe_rlhf_panacea.errors import UserError

AUTO = "auto"


def server(value: Any) -> str:
    """A server's address, or ``auto``."""
    from safe_rlhf_panacea.rollouts.server import server_url

    if value == AUTO:
        return AUTO
    try:
        return server_url(kinds.text(value))
    except UserError as error:
        raise ArgumentTypeError(str(error)) from None


@configuration
class EngineOptions(Options):
    """Who draws the responses, and how far it may be from the policy."""

    GROUP: ClassVar[str] = "rollouts by vLLM (docs/scaling.md)"

    rollout_engine: Literal["own", "vllm"] = option("own", "who draws the responses")
    rollout_server: tuple[str, ...] | None = option(
        text=f"of vLLM servers, or '{AUTO}' to start one, which ends with the run",
        kind=server,
        metavar="URL",
    )
    rollout_server_flags: str | None = option(
        text="with auto: vLLM's own, in quotes, e.g. '--gpu-memory-utilization 0.4'",
        metavar="FLAGS",
    )
    rollout_folder: str | None = option(
        text="where servers find the adapter after each update; default: rollouts in the output "
        "folder",
        metavar="DIR",
    )
    rollout_timeout: float = option(
        600.0, "seconds for the responses to one prompt", kind=kinds.positive_float
    )
    rollout_stale: bool = option(
        False,
        "ask for the next responses while those at hand are learnt from, so that they are of the "
        "policy one update before",
    )
    vllm_importance_sampling_correction: bool = option(
        False,
        "weight each token with the policy's probability over vLLM's, as TRL does (token_truncate)",
    )
    vllm_importance_sampling_cap: float = option(
        3.0, "most that such a weight is", kind=kinds.positive_float
    )

    def check_engine(self, update_iters: int) -> None:
        """Refuse options of servers that do not fit together.

        Args:
            update_iters: passes over a rollout.

        Raises:
            UserError: naming them.
        """
        if self.rollout_engine == "own":
            for name in (
                *("rollout_server", "rollout_server_flags", "rollout_folder", "rollout_stale"),
                "vllm_importance_sampling_correction",
            ):
                if getattr(self, name):
                    raise UserError(f"--{name} belongs to --rollout_engine vllm")
            return
        if self.rollout_server is None:
            raise UserError(
                f"--rollout_engine vllm needs --rollout_server: addresses of servers, or {AUTO}"
            )
        if AUTO in self.rollout_server and self.rollout_server != (AUTO,):
            raise UserError(f"--rollout_server {AUTO} stands alone: it starts one server")
        if self.rollout_server_flags is not None and self.rollout_server != (AUTO,):
            raise UserError(f"--rollout_server_flags belongs to --rollout_server {AUTO}")
        if self.rollout_stale and update_iters > 1:
            raise UserError("--rollout_stale needs --update_iters 1: one update lies between")
