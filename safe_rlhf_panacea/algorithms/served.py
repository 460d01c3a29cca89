"""A Panacea trainer's responses from vLLM servers (``--rollout_engine vllm``)."""

from __future__ import annotations

import math
import secrets
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from safe_rlhf_panacea import distributed
from safe_rlhf_panacea.base.engine import gathered
from safe_rlhf_panacea.base.rl_data import Rollout
from safe_rlhf_panacea.configs.kinds import AUTO
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models.adapted import find_adapter
from safe_rlhf_panacea.rollouts import checks
from safe_rlhf_panacea.rollouts.engine import NAME, Rollouts, remove_versions

if TYPE_CHECKING:
    from safe_rlhf_panacea.algorithms.rewarded import PanaceaRewarded


def connect(trainer: PanaceaRewarded) -> Rollouts:
    """Find a trainer's servers, or start one, and hold them against the policy.

    Raises:
        UserError: there is none, or one that would not draw the policy's responses.
    """
    args, panacea = trainer.args, trainer.panacea
    base, policy = args.actor_model_name_or_path, panacea.policy.config
    if find_adapter(base) is not None:
        raise UserError(
            f"--rollout_engine vllm: {base} is an adapter, which vLLM does not take as a base "
            "model: export it with --format merged, and train from that"
        )
    folder = Path(args.rollout_folder or Path(args.output_dir) / "rollouts").expanduser().resolve()
    at_once = args.per_device_prompt_batch_size if args.preference_scope == "sample" else 1
    loras = min(checks.MOST_LORAS, at_once + int(args.rollout_stale))
    needed = checks.Needed(base, f"{NAME}={folder}", policy.rank, args.max_length, loras)
    own_server = None
    with distributed.refusing_together():
        urls = list(args.rollout_server)
        if urls == [AUTO] and distributed.is_main_process():
            dtype = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
            flags = shlex.split(args.rollout_server_flags or "")
            own_server = checks.start_server(needed, folder / "server", dtype, flags)
            urls = [own_server.url]
    urls = distributed.all_gather_objects(urls)[0]
    if args.rollout_folder is None and distributed.is_main_process():
        remove_versions(folder)
    run = distributed.all_gather_objects(secrets.token_hex(4))[0]
    names = panacea.objectives if policy.pref_dim else ()
    rollouts = Rollouts(urls, args, needed, names, trainer.generation_config, folder, run)
    rollouts.own_server = own_server
    with distributed.refusing_together():
        for server in rollouts.pool.serving():
            checks.check_vllm(server, needed)
    try:
        publish(trainer, rollouts)
        _compare(trainer, rollouts)
    except BaseException:
        remove_versions(folder, rollouts.versions)
        raise
    return rollouts


def _compare(trainer: PanaceaRewarded, rollouts: Rollouts) -> None:
    """Hold a short response of every server against the policy's own log-probabilities."""
    preference, temperature = trainer.panacea.centre, trainer.args.temperature or 1.0
    prompt = trainer.prompt_only_dataloader.dataset[0]["input_ids"].tolist()
    with distributed.refusing_together():
        probes = rollouts.probes(prompt, preference[0])
    trainer.set_eval()
    inputs = (temperature, 1.0), distributed.own_device()
    with trainer.panacea.at(preference, shared=True):
        model = trainer.actor_model
        own = [checks.own_log_probs(model, prompt, p.tokens, *inputs) for p in probes]
    with distributed.refusing_together():
        for server, found, ours in zip(rollouts.pool.serving(), probes, own, strict=True):
            checks.check_close(server, rollouts.needed, found.log_probs, ours, temperature)


def publish(trainer: PanaceaRewarded, rollouts: Rollouts) -> None:
    """Hand over the adapter as it is now, whole also under ZeRO 3."""
    policy = trainer.panacea.policy
    with gathered(policy.parameters()), distributed.refusing_together():
        write = policy.save if distributed.is_main_process() else None
        rollouts.publish(trainer.actor_model.global_steps, write)
    distributed.barrier()


# -- training on what another engine drew ---------------------------------------------


def token_weights(args: Any, rollout: Rollout, old_log_probs: Tensor) -> Tensor | None:
    """min(π_old / π_engine, cap) of a micro-batch's tokens, without a gradient, size = (B, T).

    Those of truncated importance sampling; None where the options do not ask for it.
    """
    if not getattr(args, "vllm_importance_sampling_correction", False):
        return None
    cap = args.vllm_importance_sampling_cap
    return _log_ratios(rollout, old_log_probs).clamp(max=math.log(cap)).exp()


def mismatch(rollout: Rollout, old_log_probs: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """How far the engine's policy was from the trainer's, at each token; nothing without one.

    ``old_log_probs`` and ``mask`` are of the responses, size = (B, T).
    """
    if "sampling_log_probs" not in rollout:
        return {}
    difference = _log_ratios(rollout, old_log_probs)[mask.bool()]
    return {
        "sampling_logp_difference": difference.abs(),
        "importance_sampling_ratio": difference.exp(),
    }


def _log_ratios(rollout: Rollout, old_log_probs: Tensor) -> Tensor:
    """log π_old - log π_engine of the responses, size = (B, T)."""
    engines = rollout["sampling_log_probs"]
    return (old_log_probs - engines[:, engines.size(1) - old_log_probs.size(1) :]).detach()
