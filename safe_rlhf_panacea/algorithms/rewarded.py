"""What Panacea trainers that learn from rewards have in common: rewards, rollouts at λ, fronts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from safe_rlhf_panacea.algorithms import served
from safe_rlhf_panacea.algorithms.trainer import PanaceaTrainer
from safe_rlhf_panacea.base.engine import Batch
from safe_rlhf_panacea.base.rl_data import Rollout
from safe_rlhf_panacea.base.setup import model_dtype
from safe_rlhf_panacea.distributed import unwrap
from safe_rlhf_panacea.forward import PassOptions, set_pass_options, side_by_side
from safe_rlhf_panacea.fronts.measure import different_prompts, measure, sample_base
from safe_rlhf_panacea.fronts.measurement import Measurement
from safe_rlhf_panacea.fronts.over_grid import Sampled
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.loading import Loaded, RewardLoading, load_rewards
from safe_rlhf_panacea.rewards.responses import Responses
from safe_rlhf_panacea.rollouts.completions import Asked
from safe_rlhf_panacea.rollouts.engine import Rollouts
from safe_rlhf_panacea.runs.checkpoint import TrainingState
from safe_rlhf_panacea.runs.divergence import finite_on_all

if TYPE_CHECKING:  # at run time what the trainer stands on: the port, or Safe-RLHF
    from safe_rlhf_panacea.base.rl import RLTrainer as RLBase
else:
    RLBase = object


class PanaceaRewarded(PanaceaTrainer, RLBase):
    """What Panacea-PPO and Panacea-GRPO share; stands before their base among the parents.

    The policy is its own reference, with its adapter off.

    Attributes:
        rewards: what scores responses, one scorer for each objective.
        examples: the raw samples of the prompts last responded to: Safe-RLHF's hooks have no
            argument for them.
        initial: the initial model on the evaluation prompts, once measured.
        rollouts: the servers that draw responses; None: the trainer samples.
        drawing: the micro-batch whose responses are taken from them now.
        asked: prompt batches that responses were asked for, in the run.
    """

    rewards: RewardEnsemble
    examples: list[dict[str, Any]] | None = None
    initial: Sampled | None = None
    rollouts: Rollouts | None = None
    drawing: Asked | None = None
    asked: int = 0
    _log_probs: Iterator[Tensor]  # the servers', of the parts of a micro-batch

    def __init__(self, args: Any, *ds_configs: dict[str, Any]) -> None:
        objectives = tuple(spec.name for spec in args.reward_specs)
        self.init_panacea(args, objectives, args.actor_model_name_or_path)
        super().__init__(args, *ds_configs)

    def about(self) -> dict[str, Any]:
        """With the rewards' units, as a calibration may have set them."""
        return {**super().about(), "reward_specs": self.args.reward_specs}

    def opened(self) -> None:
        """Find the servers, or start one, where they are to draw the responses."""
        super().opened()
        if getattr(self.args, "rollout_engine", "own") != "own":
            self.rollouts = served.connect(self)
            self.ahead = int(self.args.rollout_stale)

    def trained(self) -> None:
        """Remove what was handed over, and end the server that was started."""
        super().trained()
        if self.rollouts is not None:
            self.rollouts.close()

    # -- models and data --------------------------------------------------------------

    def init_reference(self) -> None:
        self.actor_reference_model = None

    @contextmanager
    def reference(self) -> Iterator[Any]:
        with self.panacea.reference(unwrap(self.actor_model)):
            yield self.actor_model

    def load_rewards(self, load_own: Callable[..., Loaded] | None = None) -> None:
        """Find the reward functions, then load every reward model once."""
        args = self.args
        loading = RewardLoading(
            args.max_length, model_dtype(args), args.normalize_reward, args.trust_remote_code
        )
        stops = self.template.stop_ids(self.actor_model)
        self.reward_model = None  # the base's single one
        self.rewards = load_rewards(args.reward_specs, self.tokenizer, stops, loading, load_own)
        for model in self.rewards.models:
            model.now = self.template.now
            set_pass_options(model.model, PassOptions.of(args))

    def init_datasets(self) -> None:
        """Load the data, which must have the columns that functions ask for."""
        super().init_datasets()
        for loader in (self.prompt_only_dataloader, self.eval_dataloader):
            if loader is not None:
                data: Any = loader.dataset
                source = getattr(data, "source", "the prompts")
                self.rewards.check_columns(getattr(data, "examples", None), source)

    # -- rollouts ---------------------------------------------------------------------

    def draw(self, batch: Batch, waiting: int) -> Tensor:
        """λ of a micro-batch, size = (B, m), which so many backward passes come before."""
        rows = batch["input_ids"].size(0)
        return self.panacea.draw(rows, self.actor_model, waiting, self.args.update_iters)

    def ask(self, batches: list[Batch]) -> None:
        """Hand over the adapter, draw λ, and ask for the responses to a prompt batch."""
        rollouts = self.rollouts
        assert rollouts is not None
        served.publish(self, rollouts)
        each = 1 if self.WHOLE_GROUPS else self.args.num_return_sequences
        each *= 1 + self.use_ptx  # backward passes on a micro-batch
        preferences: list[Tensor] = []
        for batch in batches:
            before = self.waiting + each * (len(rollouts.waiting) + len(preferences))
            preferences.append(self.draw(batch, before))
        rollouts.ask(batches, preferences, self.asked)
        self.asked += 1

    @torch.no_grad()
    def rollout(self, prompt_only_batch: Batch) -> list[Any]:
        """Take λ first: responses, log-probabilities and update all see the same one."""
        if self.rollouts is None:
            preference = self.draw(prompt_only_batch, self.waiting)
        else:
            preference, self.drawing = self.rollouts.waiting.popleft()
        try:
            with self.panacea.at(preference):
                return super().rollout(prompt_only_batch)
        finally:
            self.drawing = None

    def generate(self, prompt_only_batch: Batch) -> tuple[Tensor, Tensor]:
        """Responses, every one of a prompt at that prompt's λ.

        One shared λ is merged into float32 weights; lower precision would round the update away,
        and sharded weights cannot be written.

        Raises:
            NoResponsesError: servers give none, to this process or to another one.
        """
        self.examples = prompt_only_batch.get("examples")
        if self.drawing is not None:
            sequences, mask, log_probs = finite_on_all(self.drawing.collect)
            copies = 1 if self.WHOLE_GROUPS else self.args.num_return_sequences
            self._log_probs = iter([log_probs[i::copies] for i in range(copies)])
            return sequences, mask
        single = next(unwrap(self.actor_model).parameters()).dtype == torch.float32
        may_merge = single and self.args.zero_stage < 3
        with self.panacea.generation(self.args.num_return_sequences, may_merge=may_merge):
            return super().generate(prompt_only_batch)

    def sampled(self) -> Rollout:
        """What a micro-batch keeps of the servers: their log-probabilities, size = (B, L - 1)."""
        return {} if self.drawing is None else {"sampling_log_probs": next(self._log_probs)}

    def all_rewards(self, sequence: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor:
        """The m rewards of responses to ``examples``, several to each side by side, (B, m)."""
        examples, groups = self.examples, None
        if examples is not None:
            copies = len(sequence) // len(examples)
            examples = [example for example in examples for _ in range(copies)]
            groups = side_by_side(len(sequence), copies)
        self.tell_progress()
        return self.rewards(Responses(sequence, attention_mask, prompt_length, examples, groups))

    def tell_progress(self) -> None:
        """Functions may ask how far the training is."""
        state = self.rewards.state
        state.global_step, state.max_steps = self.global_step, self.total_steps

    def score(self, sequence: Tensor, attention_mask: Tensor, prompt_length: int) -> Rollout:
        """All m rewards, size = (B, m), and their aggregate at λ, size = (B,)."""
        rewards = self.all_rewards(sequence, attention_mask, prompt_length)
        return {"reward": self.panacea.reward(rewards), "rewards": rewards}

    # -- training steps ---------------------------------------------------------------

    def ptx_step(self, ptx_batch: Batch) -> dict[str, float]:
        """Supervised text at the λ of the rollout; its rows take the rollout's in turn."""
        latest = self.panacea.latest  # size = (B, m)
        rows = torch.arange(ptx_batch["input_ids"].size(0), device=latest.device) % len(latest)
        with self.panacea.at(latest, rows):
            info = super().ptx_step(ptx_batch)
        return info | self.panacea.progress_metrics(self.actor_model)

    def by_name(self, rollout: Rollout) -> dict[str, Tensor]:
        """Rewards, what was said before sign, scale and shift, and λ, by objective.

        Where an objective may not count, also whether none does for a response.
        """
        panacea, rewards = self.panacea, rollout["rewards"]  # size = (B, m)
        counted = ~rewards.isnan()
        named = {
            **panacea.by_label("reward", rewards, counted),
            **panacea.by_label("raw_reward", self.rewards.raw(rewards), counted),
            **panacea.by_name("preference", rollout["preference"]),
        }
        if self.rewards.may_lack:
            named["without_reward"] = (~counted).all(dim=-1).float()
        return named

    def logged(self, where: str) -> dict[str, float]:
        """What reward functions have logged since the last call, under ``train/`` or ``eval/``."""
        return {f"{where}/{name}": mean for name, mean in self.rewards.logged().items()}

    # -- evaluation and checkpoints ---------------------------------------------------

    def eval(self) -> dict[str, Any]:
        found = super().eval()
        return {**self.logged("eval"), **found}

    @torch.no_grad()
    def eval_rollout(self, prompt: Tensor, sequence: Tensor, attention_mask: Tensor) -> Batch:
        """Every objective's reward of evaluation responses, size = (B,); NaN where it has none."""
        found = self.all_rewards(sequence, attention_mask, prompt.size(-1))
        return {
            f"eval/reward_{name}": found[:, i] for i, name in enumerate(self.panacea.objectives)
        }

    def measure_front(self) -> Measurement:
        """Rewards of responses to the evaluation prompts."""
        args, data = self.args, self.eval_dataloader.dataset
        self.tell_progress()
        policy = self.measured_policy(
            self.actor_model,
            temperature=args.temperature,
            top_p=args.top_p,
            repetition_penalty=args.repetition_penalty,
        )
        rows = (data[i] for i in range(len(data)))
        asked = ((row["input_ids"], row.get("example")) for row in rows)
        prompts = different_prompts(self.template, asked, args.eval_prompts)
        if self.initial is None:
            self.initial = sample_base(policy, self.rewards, prompts)
        return measure(policy, self.grid, prompts=prompts, rewards=self.rewards, base=self.initial)

    def streams(self) -> dict[str, Any]:
        """The place in the stream of λ, and in that of seeds."""
        return {"source": self.panacea.source.state_dict(), "asked": self.asked}

    def training_state(self) -> TrainingState:
        """With the place in the stream of seeds."""
        state = super().training_state()
        if self.asked:
            state.panacea.setdefault("asked", self.asked)
        return state

    def restore(self, state: TrainingState) -> None:
        self.asked = int(state.panacea.get("asked", 0))
        super().restore(state)
