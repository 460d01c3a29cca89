"""Panacea-PPO (Algorithm 1 with Eq. 12 and 13): draw λ, set it, aggregate, delegate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch

from safe_rlhf_panacea.adapter import PanaceaAdapter, inject_adapter
from safe_rlhf_panacea.aggregation import IdealPoint, aggregate_rewards
from safe_rlhf_panacea.algorithms.arguments import adapter_config
from safe_rlhf_panacea.algorithms.conditioning import PreferenceSource, as_reference, set_preference
from safe_rlhf_panacea.algorithms.ppo.critic import RewardCritic
from safe_rlhf_panacea.algorithms.saving import save_adapter, snapshot_folder
from safe_rlhf_panacea.algorithms.watching import Watched
from safe_rlhf_panacea.base import (
    Batch,
    HookedPPOTrainer,
    TrainingState,
    all_reduce_max,
    all_reduce_means,
    init_eval_engine,
    is_main_process,
    unwrap,
)
from safe_rlhf_panacea.base.tokenizers import is_same_tokenizer
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.evaluation.measure import different_prompts, measure, sample_base
from safe_rlhf_panacea.evaluation.measurement import Measurement
from safe_rlhf_panacea.evaluation.reward_front import Sampled
from safe_rlhf_panacea.rewards import RewardEnsemble
from safe_rlhf_panacea.scorers import (
    Scorer,
    function_scorer,
    model_scorer,
    retokenizing_scorer,
)


class PanaceaPPOTrainer(Watched, HookedPPOTrainer):
    """PPO for m rewards.

    Holds 1 + m backbones: the policy, which with its adapter off is its own reference, and m
    reward models, of which the first with the policy's tokens also carries the critic. A reward
    that is a function needs no backbone.
    """

    TRAINING_TYPE: ClassVar[str] = "panacea-ppo"

    adapter: PanaceaAdapter
    prompt_length: int = 0  # of the last generation: responses begin there
    initial: Sampled | None = None  # the initial model on the evaluation prompts, once measured

    # -- models -----------------------------------------------------------------------

    def init_actor(self) -> None:
        """Load the policy and inject the adapter."""
        super().init_actor()
        self.objectives = tuple(spec.name for spec in self.args.reward_specs)
        self.adapter_config = adapter_config(
            self.args, self.objectives, self.args.actor_model_name_or_path
        )
        self.adapter = inject_adapter(self.actor_model, self.adapter_config)
        self.preferences = PreferenceSource(self.args, self.objectives)
        self.ideal_point = IdealPoint(len(self.objectives))

    def init_reference(self) -> None:
        """The policy is its own reference."""
        self.actor_reference_model = None

    def init_rewards(self) -> None:
        """Load every reward model once; functions are found now and not after the loading."""
        self.reward_model = None  # the base's single one
        specs = self.args.reward_specs
        normalize = self.args.normalize_reward
        self.scorers: dict[str, Scorer] = {
            spec.name: function_scorer(spec.path, self.tokenizer)
            for spec in specs
            if spec.is_function
        }
        self.reward_models, self.reward_tokenizers = {}, {}
        for spec in specs:
            if not spec.is_function:
                loaded = self.load_scorer(spec.path, spec.role, normalize=normalize)
                self.reward_models[spec.name], self.reward_tokenizers[spec.name] = loaded

    def init_critic(self) -> None:
        """Put the critic on the first reward model that reads the policy's tokens."""
        own = [
            name
            for name, tokenizer in self.reward_tokenizers.items()
            if is_same_tokenizer(self.tokenizer, tokenizer)
        ]
        if not own:
            raise UserError(
                "the critic needs one reward model with the tokenizer of "
                f"{self.args.actor_model_name_or_path}: none of --reward_models has it"
            )
        self.critic_objective = own[0]
        self.reward_critic_model = RewardCritic(self.reward_models[own[0]], self.adapter_config)

    def init_engines(self) -> None:
        """Make the engines; the critic's reward model belongs to the critic's."""
        super().init_engines()
        for name, model in self.reward_models.items():
            self.scorers[name] = self._model_scorer(name, model)
        specs = self.args.reward_specs
        self.rewards = RewardEnsemble(specs, [self.scorers[spec.name] for spec in specs])

    def _model_scorer(self, name: str, model: Any) -> Scorer:
        if name == self.critic_objective:
            return self._critics_reward
        engine = init_eval_engine(model.to(self.args.device), self.ds_eval_config)
        tokenizer = self.reward_tokenizers[name]
        if is_same_tokenizer(self.tokenizer, tokenizer):
            return model_scorer(engine)
        if is_main_process():
            print(f"{name}: its reward model has other tokens; responses are tokenised anew for it")
        return retokenizing_scorer(engine, self.tokenizer, tokenizer)

    def _critics_reward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, prompt_length: int
    ) -> torch.Tensor:
        del prompt_length
        output = self.reward_critic_model(input_ids, attention_mask, role="reward")
        return output.end_scores.squeeze(-1)  # size = (B,)

    # -- λ ----------------------------------------------------------------------------

    def set_preference(self, preference: torch.Tensor, copies: int = 1) -> None:
        """Set λ, size = (m,) or (B, m), for actor and critic."""
        self.preference = preference
        set_preference(self.adapter, preference, copies)
        set_preference(unwrap(self.reward_critic_model).adapter, preference, copies)

    @property
    def _generation_context(self) -> Any:
        """One λ in float32 is merged into the weights while responses are drawn.

        Not in lower precision, where merging rounds the update away, nor with sharded weights.
        """
        current = self.adapter.preference  # of size (0,) for an adapter without λ
        single = next(unwrap(self.actor_model).parameters()).dtype == torch.float32
        if current.dim() == 1 and single and self.args.zero_stage < 3:
            return self.adapter.merged(current)
        return nullcontext()

    # -- rollout ----------------------------------------------------------------------

    @torch.no_grad()
    def rollout(self, prompt_only_batch: Batch) -> list[Batch]:
        """Draw λ first: responses, log-probabilities, values and update all see the same one."""
        preference = self.preferences.draw(prompt_only_batch["input_ids"].size(0))
        self.set_preference(preference)
        return super().rollout(prompt_only_batch)

    def generate(self, prompt_only_batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Responses at λ; every response of a prompt at that prompt's λ."""
        self.prompt_length = prompt_only_batch["input_ids"].size(1)
        set_preference(self.adapter, self.preference, self.args.num_return_sequences)
        with self._generation_context:
            return super().generate(prompt_only_batch)

    def post_rollout(
        self, prompt: torch.Tensor, sequence: torch.Tensor, attention_mask: torch.Tensor
    ) -> Batch:
        """Score a batch and keep its λ with it."""
        self.set_preference(self.preference)
        self.prompt_length = prompt.size(1)
        batch = super().post_rollout(prompt, sequence, attention_mask)
        batch["preference"] = self.preference
        return batch

    @contextmanager
    def reference(self) -> Iterator[Any]:
        """The policy with its adapter off."""
        with as_reference(self.adapter, unwrap(self.actor_model)):
            yield self.actor_model

    def score(self, sequence: torch.Tensor, attention_mask: torch.Tensor) -> Batch:
        """All m rewards, size = (B, m), and their aggregate at λ, size = (B,)."""
        rewards = self.rewards(sequence, attention_mask, self.prompt_length)
        ideal = None
        if self.args.aggregation == "tche":
            best = all_reduce_max(rewards.amax(dim=0))  # the ranks share one ideal point
            self.ideal_point.update(best.unsqueeze(0))
            ideal = self.ideal_point.value.to(rewards)
        reward = aggregate_rewards(rewards, self.preference, self.args.aggregation, ideal)
        return {"reward": reward, "rewards": rewards}

    # -- updates ----------------------------------------------------------------------

    def rl_step(self, rl_batch: Batch) -> dict[str, float]:
        """Set the batch's λ and take the step."""
        self.set_preference(rl_batch["preference"])
        info = super().rl_step(rl_batch)
        rewards = rl_batch["rewards"].mean(dim=0)  # size = (m,)
        series = {
            "reward": rewards,
            "raw_reward": self.rewards.raw(rewards),
            "preference": rl_batch["preference"].reshape(-1, len(self.objectives)).mean(dim=0),
        }
        named = {
            f"{what}_{name}": values[i]
            for what, values in series.items()
            for i, name in enumerate(self.objectives)
        }
        return {**info, **{f"train/{k}": v for k, v in all_reduce_means(named).items()}}

    def actor_loss_fn(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        """PPO's loss, with the penalty on U and V if asked for."""
        loss = super().actor_loss_fn(*args, **kwargs)
        if self.args.orthogonality_coeff > 0:
            loss = loss + self.args.orthogonality_coeff * self.adapter.orthogonality()
        return loss

    def ptx_step(self, ptx_batch: Batch) -> dict[str, float]:
        """Supervised text at the λ of the rollout, row by row where each sample has its own."""
        preference = self.preference
        if preference.dim() == 2:
            rows = torch.arange(ptx_batch["input_ids"].size(0), device=preference.device)
            preference = preference[rows % preference.size(0)]
        set_preference(self.adapter, preference)
        return super().ptx_step(ptx_batch)

    @torch.no_grad()
    def eval_step(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Batch:
        """Every objective's reward."""
        rewards = self.rewards(input_ids, attention_mask, self.prompt_length)
        return {f"eval/reward_{name}": rewards[:, i] for i, name in enumerate(self.objectives)}

    def eval(self) -> dict[str, float]:
        """Evaluate at the centre of the simplex, then the front."""
        count = len(self.objectives)
        centre = torch.full((count,), 1 / count, device=self.args.device)
        self.set_preference(centre if self.preferences.fixed is None else self.preferences.fixed)
        return super().eval()

    def measure_front(self) -> Measurement:
        """Rewards of responses to the evaluation prompts."""
        args, data = self.args, self.eval_dataloader.dataset
        names = ("temperature", "top_p", "repetition_penalty")
        sampling = {name: getattr(args, name) for name in names}
        policy = self.measured_policy(self.actor_model, **sampling)
        ids = (data[i]["input_ids"] for i in range(len(data)))
        prompts = different_prompts(self.tokenizer, ids, args.eval_prompts)
        if self.initial is None and args.only_optimize_lora:
            self.initial = sample_base(policy, self.rewards, prompts)
        return measure(
            policy,
            self.evaluation_grid,
            prompts=prompts,
            rewards=self.rewards,
            base=self.initial,
        )

    # -- checkpoints ------------------------------------------------------------------

    def training_state(self) -> TrainingState:
        """With the place in the stream of preference vectors and the ideal point."""
        state = super().training_state()
        state.preference_sampler = self.preferences.state_dict()
        state.ideal_point = self.ideal_point.state_dict()
        return state

    def restore(self, state: TrainingState) -> None:
        """With the place in the stream of preference vectors and the ideal point."""
        super().restore(state)
        if state.preference_sampler is not None:
            self.preferences.load_state_dict(state.preference_sampler)
        if state.ideal_point is not None:
            self.ideal_point.load_state_dict(state.ideal_point)

    def save_checkpoint(self) -> None:
        """With the adapter as it is now, ready to be loaded and evaluated."""
        super().save_checkpoint()
        folder = snapshot_folder(self.args.output_dir, self.global_step)
        save_adapter(self.adapter, self.tokenizer, folder)

    def save(self, model: Any = None, ds_config: dict[str, Any] | None = None) -> None:
        """Write the policy's adapter and the tokenizer."""
        del model, ds_config
        save_adapter(self.adapter, self.tokenizer, self.args.output_dir)
        self.logger.print(f'Saved the adapter to "{self.args.output_dir}".')
