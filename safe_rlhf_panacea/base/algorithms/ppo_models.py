"""The models of proximal policy optimisation against one reward: how each is loaded and placed."""

from __future__ import annotations

from typing import Any, ClassVar

from safe_rlhf_panacea.base.distributed import own_device
from safe_rlhf_panacea.base.engine import init_eval_engine
from safe_rlhf_panacea.base.setup import model_dtype
from safe_rlhf_panacea.base.trainers.actor import load_actor
from safe_rlhf_panacea.base.trainers.rl import RLTrainer
from safe_rlhf_panacea.base.trainers.rollout import AnyRollout
from safe_rlhf_panacea.models.pretrained import check_same_tokenizer, load_score_model


class PPOModels(RLTrainer[AnyRollout]):
    """A trainer with actor, reference, reward model and critic."""

    TRAINED: ClassVar[dict[str, str]] = {"actor": "actor_model", "critic": "reward_critic_model"}

    reward_critic_model: Any

    def load_scorer(self, path: str, role: str, *, normalize: bool = False) -> tuple[Any, Any]:
        """A score model in a role, and its tokenizer."""
        return load_score_model(
            path,
            role,
            max_length=self.args.max_length,
            normalize=normalize,
            dtype=model_dtype(self.args),
            trust_remote_code=self.args.trust_remote_code,
        )

    def load_score_model(self, path: str, role: str, *, normalize: bool = False) -> Any:
        """A score model in a role, after checking that it reads the policy's tokens."""
        model, tokenizer = self.load_scorer(path, role, normalize=normalize)
        check_same_tokenizer(self.tokenizer, tokenizer, self.args.actor_model_name_or_path, path)
        return model

    def load_actor(self) -> tuple[Any, Any]:
        """The policy and its tokenizer."""
        return load_actor(self.args)

    def init_actor(self) -> None:
        """Load the policy."""
        self.actor_model, self.tokenizer = self.load_actor()

    def init_reference(self) -> None:
        """Load a second, frozen copy of the policy."""
        self.actor_reference_model, _ = self.load_actor()

    def init_rewards(self) -> None:
        """Load the reward model."""
        self.reward_model = self.load_score_model(
            self.args.reward_model_name_or_path, "reward", normalize=self.args.normalize_reward
        )

    def init_models(self) -> None:
        """Load actor, reference, rewards and critic, in this order."""
        super().init_models()
        self.init_critic()

    def init_critic(self) -> None:
        """Load the critic, from the reward model unless told otherwise."""
        path = self.args.reward_critic_model_name_or_path or self.args.reward_model_name_or_path
        self.reward_critic_model = self.load_score_model(path, "critic")

    def init_engines(self) -> None:
        """Make the engines and place the frozen models."""
        super().init_engines()
        for name in ("actor_reference_model", "reward_model"):
            model = getattr(self, name)
            if model is not None:
                model.to(own_device())
                setattr(self, name, init_eval_engine(model, self.ds_eval_config))
