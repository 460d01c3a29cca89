"""What a Panacea trainer does where vLLM servers draw its responses (``--rollout_engine vllm``)."""

from __future__ import annotations

import math
import secrets
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypedDict

import torch

from safe_rlhf_panacea import distributed
from safe_rlhf_panacea.algorithms.part import FrontTrainer, PanaceaPart
from safe_rlhf_panacea.base.engine import gathered
from safe_rlhf_panacea.base.updates import Batch
from safe_rlhf_panacea.configs.kinds import AUTO
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models.adapted import find_adapter
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rollouts import checks
from safe_rlhf_panacea.rollouts.completions import Asked
from safe_rlhf_panacea.rollouts.engine import NAME, Rollouts, remove_versions
from safe_rlhf_panacea.runs.divergence import finite_on_all


class RewardedTrainer(FrontTrainer, Protocol):
    """A ``FrontTrainer`` that learns from rewards."""

    WHOLE_GROUPS: ClassVar[bool]  # this, waiting, generation_config, use_ptx: see RLTrainer
    actor_model: Any  # the policy's engine, or the policy before there is one
    generation_config: Any
    use_ptx: bool
    prompt_only_dataloader: Any
    rewards: RewardEnsemble  # what RewardedPart.load gave
    waiting: int

    def set_eval(self) -> None:
        """Set evaluation mode for all trained models."""


class EngineLogProbs(TypedDict, total=False):
    """What a rollout has only where another engine drew its responses."""

    sampling_log_probs: torch.Tensor  # the engine's, size = (B, L - 1)


class ServedPart(PanaceaPart):
    """A trainer's part whose responses servers may draw; without them it is ``PanaceaPart``."""

    trainer: RewardedTrainer
    rollouts: Rollouts | None = None  # the servers; None: the trainer samples
    own_server: checks.LocalServer | None = None  # that this run has started
    asked: int = 0  # prompt batches that responses were asked for, in the run
    drawing: Asked | None = None  # the micro-batch whose responses are taken now
    learnt_from: Mapping[str, Any]  # the micro-batch of the present training step
    found: dict[str, torch.Tensor]  # of mismatch, in the present training step
    _log_probs: Iterator[torch.Tensor]

    # -- servers ----------------------------------------------------------------------

    def opened(self) -> None:
        """Find the servers, or start one, and hold them against the policy."""
        super().opened()
        self.learnt_from, self.found = {}, {}
        if getattr(self.trainer.args, "rollout_engine", "own") != "own":
            self._connect()
            self.ahead = int(self.trainer.args.rollout_stale)

    def _connect(self) -> None:
        args, policy = self.trainer.args, self.panacea.policy.config
        base = args.actor_model_name_or_path
        if find_adapter(base) is not None:
            raise UserError(
                f"--rollout_engine vllm: {base} is an adapter, which vLLM does not take as a base "
                "model: export it with --format merged, and train from that"
            )
        folder = Path(args.rollout_folder or Path(args.output_dir) / "rollouts")
        folder = folder.expanduser().resolve()
        at_once = args.per_device_prompt_batch_size if args.preference_scope == "sample" else 1
        loras = min(checks.MOST_LORAS, at_once + int(args.rollout_stale))
        needed = checks.Needed(base, f"{NAME}={folder}", policy.rank, args.max_length, loras)
        with distributed.refusing_together():
            urls = list(args.rollout_server)
            if urls == [AUTO] and distributed.is_main_process():
                dtype = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
                flags = shlex.split(args.rollout_server_flags or "")
                self.own_server = checks.start_server(needed, folder / "server", dtype, flags)
                urls = [self.own_server.url]
        urls = distributed.all_gather_objects(urls)[0]
        if args.rollout_folder is None and distributed.is_main_process():
            remove_versions(folder)
        run = distributed.all_gather_objects(secrets.token_hex(4))[0]
        names = self.panacea.objectives if policy.pref_dim else ()
        config = self.trainer.generation_config
        rollouts = Rollouts(urls, args, needed, names, config, folder, run)
        with distributed.refusing_together():
            for server in rollouts.pool.serving():
                checks.check_vllm(server, needed)
        try:
            self._publish(rollouts)
            self._compare(rollouts)
        except BaseException:
            remove_versions(folder, rollouts.versions)
            raise
        self.rollouts = rollouts

    def _compare(self, rollouts: Rollouts) -> None:
        """Hold a short response of every server against the policy's own log-probabilities."""
        trainer, preference = self.trainer, self.panacea.centre
        temperature = trainer.args.temperature or 1.0
        prompt = trainer.prompt_only_dataloader.dataset[0]["input_ids"].tolist()
        with distributed.refusing_together():
            probes = rollouts.probes(prompt, preference[0])
        trainer.set_eval()
        inputs = (temperature, 1.0), distributed.own_device()
        with self.panacea.at(preference, shared=True):
            model = trainer.actor_model
            own = [checks.own_log_probs(model, prompt, p.tokens, *inputs) for p in probes]
        with distributed.refusing_together():
            for server, found, ours in zip(rollouts.pool.serving(), probes, own, strict=True):
                checks.check_close(server, rollouts.needed, found.log_probs, ours, temperature)

    def _publish(self, rollouts: Rollouts) -> None:
        """Hand over the adapter as it is now, whole also under ZeRO 3."""
        policy = self.panacea.policy
        with gathered(policy.parameters()), distributed.refusing_together():
            write = policy.save if distributed.is_main_process() else None
            rollouts.publish(self.trainer.actor_model.global_steps, write)
        distributed.barrier()

    def trained(self) -> None:
        """Remove what was handed over, and end the server that was started."""
        super().trained()
        if self.rollouts is not None:
            remove_versions(self.rollouts.folder, self.rollouts.versions)
        if self.own_server is not None:
            self.own_server.end()

    # -- what a checkpoint keeps ------------------------------------------------------

    def streams(self) -> dict[str, Any]:
        """The place in the stream of λ, and in that of seeds."""
        return {"source": self.panacea.source.state_dict(), "asked": self.asked}

    def state_dict(self) -> dict[str, Any]:
        """With the place in the stream of seeds."""
        return {**super().state_dict(), **({"asked": self.asked} if self.asked else {})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """With the place in the stream of seeds."""
        self.asked = int(state.get("asked", 0))
        super().load_state_dict(state)

    # -- rollouts ---------------------------------------------------------------------

    def ask(self, batches: list[Batch]) -> None:
        """Hand over the adapter, draw λ, and ask for the responses to a prompt batch."""
        trainer, rollouts = self.trainer, self.rollouts
        assert rollouts is not None
        self._publish(rollouts)
        each = 1 if trainer.WHOLE_GROUPS else trainer.args.num_return_sequences
        each *= 1 + trainer.use_ptx  # backward passes on a micro-batch
        preferences: list[torch.Tensor] = []
        for batch in batches:
            before = trainer.waiting + each * (len(rollouts.waiting) + len(preferences))
            preferences.append(self._drawn(batch, before))
        rollouts.ask(batches, preferences, self.asked)
        self.asked += 1

    def _drawn(self, batch: Batch, waiting: int) -> torch.Tensor:
        """λ of a micro-batch, size = (B, m), which so many backward passes come before."""
        trainer, rows = self.trainer, batch["input_ids"].size(0)
        return self.panacea.draw(rows, trainer.actor_model, waiting, trainer.args.update_iters)

    @contextmanager
    def at_drawn(self, prompt_only_batch: Batch) -> Iterator[None]:
        """Draw λ before the responses and hold it: all that a rollout gathers sees the same one."""
        if self.rollouts is None:
            preference = self._drawn(prompt_only_batch, self.trainer.waiting)
        else:
            preference, self.drawing = self.rollouts.waiting.popleft()
        try:
            with self.panacea.at(preference):
                yield
        finally:
            self.drawing = None

    def collect(self, prompt_only_batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The responses to a micro-batch, as the trainer's ``generate`` returns them.

        Raises:
            NoResponsesError: they cannot be had, on this process or on another one.
        """
        del prompt_only_batch
        assert self.drawing is not None
        sequences, mask, log_probs = finite_on_all(self.drawing.collect)
        copies = 1 if self.trainer.WHOLE_GROUPS else self.trainer.args.num_return_sequences
        self._log_probs = iter([log_probs[i::copies] for i in range(copies)])
        return sequences, mask

    def sampled(self) -> EngineLogProbs:
        """What a micro-batch keeps of the engine: its log-probabilities, size = (B, L - 1)."""
        return {} if self.drawing is None else {"sampling_log_probs": next(self._log_probs)}

    # -- training steps ---------------------------------------------------------------

    def token_weights(
        self, rollout: Mapping[str, Any], old_log_probs: torch.Tensor
    ) -> torch.Tensor | None:
        """Of truncated importance sampling, of a micro-batch, size = (B, T); None without it."""
        args = self.trainer.args
        if not getattr(args, "vllm_importance_sampling_correction", False):
            return None
        sampling = self._engines(rollout, old_log_probs)
        return truncated_weights(old_log_probs, sampling, args.vllm_importance_sampling_cap)

    def _engines(self, rollout: Mapping[str, Any], like: torch.Tensor) -> torch.Tensor:
        """The engine's log-probabilities of a micro-batch's responses, size = (B, T)."""
        found: torch.Tensor = rollout["sampling_log_probs"]
        return found[:, found.size(1) - like.size(1) :]

    def mismatch(
        self, rollout: Mapping[str, Any], old_log_probs: torch.Tensor, mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """How far the engine's policy was from the trainer's, at each token; nothing without one.

        ``old_log_probs`` and ``mask`` are of the responses, size = (B, T).
        """
        if "sampling_log_probs" not in rollout:
            return {}
        difference = (old_log_probs - self._engines(rollout, old_log_probs)).detach()[mask.bool()]
        return {
            "sampling_logp_difference": difference.abs(),
            "importance_sampling_ratio": difference.exp(),
        }


def truncated_weights(
    old_log_probs: torch.Tensor, sampling_log_probs: torch.Tensor, cap: float
) -> torch.Tensor:
    """min(π_old / π_engine, cap) of each token, without a gradient, size = (B, T).

    Args:
        old_log_probs: the trainer's own, size = (B, T).
        sampling_log_probs: the engine's, size = (B, T).
        cap: most of a weight.
    """
    difference = (old_log_probs - sampling_log_probs).detach()
    return difference.clamp(max=math.log(cap)).exp()
