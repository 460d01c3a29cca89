"""What Panacea trainers that learn from rewards have in common: rewards, rollouts at λ, fronts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from safe_rlhf_panacea.algorithms.panacea import Panacea
from safe_rlhf_panacea.algorithms.served import EngineLogProbs, RewardedTrainer, ServedPart
from safe_rlhf_panacea.base.rl_data import Rollout, Scores
from safe_rlhf_panacea.base.setup import model_dtype
from safe_rlhf_panacea.base.updates import Batch
from safe_rlhf_panacea.distributed import unwrap
from safe_rlhf_panacea.forward import PassOptions, set_pass_options, side_by_side
from safe_rlhf_panacea.fronts.measure import different_prompts, measure, sample_base
from safe_rlhf_panacea.fronts.measurement import Measurement
from safe_rlhf_panacea.fronts.over_grid import Sampled
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.loading import Loaded, RewardLoading, load_rewards
from safe_rlhf_panacea.rewards.responses import Responses


class PanaceaScores(Scores):
    """With the m rewards that ``reward`` aggregates, size = (B, m)."""

    rewards: torch.Tensor


class PanaceaRollout(Rollout, EngineLogProbs):
    """A rollout at its λ."""

    preference: torch.Tensor  # λ of each row, size = (B, m)
    rewards: torch.Tensor  # (B, m); NaN where an objective does not count for a response


class RewardedPart(ServedPart):
    """Joins a trainer that keeps what ``load`` gives in ``rewards``, and its policy's engine.

    Attributes:
        examples: the raw samples of the prompts last responded to: Safe-RLHF's hooks have no
            argument for them.
        initial: the initial model on the evaluation prompts, once measured.
        loaded: the rewards, once ``load`` was called.
    """

    trainer: RewardedTrainer
    examples: list[dict[str, Any]] | None = None
    initial: Sampled | None = None
    loaded: RewardEnsemble

    def about(self) -> dict[str, Any]:
        """With the rewards' units, as a calibration may have set them."""
        return {**super().about(), "reward_specs": self.trainer.args.reward_specs}

    # -- rewards ----------------------------------------------------------------------

    def load(self, load_own: Callable[..., Loaded] | None = None) -> RewardEnsemble:
        """Find the reward functions, then load every reward model once."""
        trainer, args = self.trainer, self.trainer.args
        loading = RewardLoading(
            args.max_length, model_dtype(args), args.normalize_reward, args.trust_remote_code
        )
        stops = trainer.template.stop_ids(trainer.actor_model)
        rewards = load_rewards(args.reward_specs, trainer.tokenizer, stops, loading, load_own)
        self.loaded = rewards
        for model in rewards.models:
            model.now = trainer.template.now
            set_pass_options(model.model, PassOptions.of(args))
        return rewards

    def all_rewards(
        self, sequence: torch.Tensor, attention_mask: torch.Tensor, prompt_length: int
    ) -> torch.Tensor:
        """The m rewards of responses to ``examples``, several to each side by side, (B, m)."""
        examples, groups = self.examples, None
        if examples is not None:
            copies = len(sequence) // len(examples)
            examples = [example for example in examples for _ in range(copies)]
            groups = side_by_side(len(sequence), copies)
        responses = Responses(sequence, attention_mask, prompt_length, examples, groups)
        self.tell_progress()
        return self.trainer.rewards(responses)

    def tell_progress(self) -> None:
        """Functions may ask how far the training is."""
        trainer = self.trainer
        state = self.loaded.state
        state.global_step, state.max_steps = trainer.global_step, trainer.total_steps

    def score(
        self, sequence: torch.Tensor, attention_mask: torch.Tensor, prompt_length: int
    ) -> PanaceaScores:
        """All m rewards, size = (B, m), and their aggregate at λ, size = (B,)."""
        rewards = self.all_rewards(sequence, attention_mask, prompt_length)
        return {"reward": self.panacea.reward(rewards), "rewards": rewards}

    def by_name(self, rollout: PanaceaRollout) -> dict[str, torch.Tensor]:
        """Rewards, what was said before sign, scale and shift, and λ, by objective.

        Where an objective may not count, also whether none does for a response.
        """
        rewards = rollout["rewards"]  # size = (B, m)
        counted = ~rewards.isnan()
        named = {
            **self.panacea.by_label("reward", rewards, counted),
            **self.panacea.by_label("raw_reward", self.loaded.raw(rewards), counted),
            **self.panacea.by_name("preference", rollout["preference"]),
        }
        if self.loaded.may_lack:
            named["without_reward"] = (~counted).all(dim=-1).float()
        return named

    def logged(self, where: str) -> dict[str, float]:
        return {f"{where}/{name}": mean for name, mean in self.loaded.logged().items()}

    def evaluate(self, base: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        found = super().evaluate(base)
        return {**self.logged("eval"), **found}


if TYPE_CHECKING:  # at run time what the trainer stands on: the port, or Safe-RLHF
    from safe_rlhf_panacea.base.rl import RLTrainer

    RLBase = RLTrainer[Any]
else:
    RLBase = object


class PanaceaRewarded(RLBase):
    """What Panacea-PPO and Panacea-GRPO share; stands before their base among the parents.

    The policy is its own reference, with its adapter off.
    """

    part: RewardedPart
    rewards: RewardEnsemble

    def __init__(self, args: Any, *ds_configs: dict[str, Any]) -> None:
        objectives = tuple(spec.name for spec in args.reward_specs)
        self.panacea = Panacea(args, objectives, args.actor_model_name_or_path)
        self.part = RewardedPart(self)
        super().__init__(args, *ds_configs)

    def init_reference(self) -> None:
        self.actor_reference_model = None

    @contextmanager
    def reference(self) -> Iterator[Any]:
        with self.panacea.reference(unwrap(self.actor_model)):
            yield self.actor_model

    def init_datasets(self) -> None:
        """Load the data, which must have the columns that functions ask for."""
        super().init_datasets()
        for loader in (self.prompt_only_dataloader, self.eval_dataloader):
            if loader is not None:
                data = loader.dataset
                source = getattr(data, "source", "the prompts")
                self.rewards.check_columns(getattr(data, "examples", None), source)

    @torch.no_grad()
    def rollout(self, prompt_only_batch: Batch) -> list[Any]:
        """Take λ first: responses, log-probabilities and update all see the same one."""
        with self.part.at_drawn(prompt_only_batch):
            return super().rollout(prompt_only_batch)

    def generate(self, prompt_only_batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Responses, every one of a prompt at that prompt's λ.

        One shared λ is merged into float32 weights; lower precision would round the update away,
        and sharded weights cannot be written.
        """
        self.part.examples = prompt_only_batch.get("examples")
        if self.part.drawing is not None:
            return self.part.collect(prompt_only_batch)
        single = next(unwrap(self.actor_model).parameters()).dtype == torch.float32
        may_merge = single and self.args.zero_stage < 3
        with self.panacea.generation(self.args.num_return_sequences, may_merge=may_merge):
            return super().generate(prompt_only_batch)

    def ptx_step(self, ptx_batch: Batch) -> dict[str, float]:
        """Supervised text at the λ of the rollout; its rows take the rollout's in turn."""
        latest = self.panacea.latest  # size = (B, m)
        rows = torch.arange(ptx_batch["input_ids"].size(0), device=latest.device) % len(latest)
        with self.panacea.at(latest, rows):
            info = super().ptx_step(ptx_batch)
        return info | self.panacea.progress_metrics(self.actor_model)

    @torch.no_grad()
    def eval_rollout(
        self, prompt: torch.Tensor, sequence: torch.Tensor, attention_mask: torch.Tensor
    ) -> Batch:
        """Every objective's reward of evaluation responses, size = (B,); NaN where it has none."""
        found = self.part.all_rewards(sequence, attention_mask, prompt.size(-1))
        return {
            f"eval/reward_{name}": found[:, i] for i, name in enumerate(self.panacea.objectives)
        }

    def measure_front(self) -> Measurement:
        """Rewards of responses to the evaluation prompts."""
        part, args = self.part, self.args
        part.tell_progress()
        policy = part.measured_policy(
            self.actor_model,
            temperature=args.temperature,
            top_p=args.top_p,
            repetition_penalty=args.repetition_penalty,
        )
        rows = (part.data[i] for i in range(len(part.data)))
        asked = ((row["input_ids"], row.get("example")) for row in rows)
        prompts = different_prompts(self.template, asked, args.eval_prompts)
        if part.initial is None:
            part.initial = sample_base(policy, self.rewards, prompts)
        return measure(policy, part.grid, prompts=prompts, rewards=self.rewards, base=part.initial)
