"""What reinforcement learning from rewards needs: models, data, engines, checkpoints."""

from __future__ import annotations

import abc
from collections import deque
from typing import Any, ClassVar

import torch
from torch.utils.data import DataLoader

from safe_rlhf_panacea.base import rl_data
from safe_rlhf_panacea.base.engine import init_train_engine, set_gradient_checkpointing
from safe_rlhf_panacea.base.setup import load_model
from safe_rlhf_panacea.base.supervised import build_loader, run_length, train_and_eval
from safe_rlhf_panacea.base.trainer import TrainerBase
from safe_rlhf_panacea.configs.algorithms import RewardedConfig
from safe_rlhf_panacea.data import PromptOnlyDataset, ResumableSampler, SupervisedDataset
from safe_rlhf_panacea.distributed import get_rank, get_world_size, unwrap
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward import SamplingConfig
from safe_rlhf_panacea.forward.passes import has_dropout
from safe_rlhf_panacea.forward.ways import fitting_way
from safe_rlhf_panacea.runs.checkpoint import TrainingState


class RLSetup(TrainerBase):
    """What the reinforcement-learning trainers hold, and how it is made.

    Hooks for subclasses: ``init_reference`` and ``init_rewards`` load the other models.

    Attributes:
        TRAINED: role to the attribute that holds its model, later its engine; the role's flags
            and checkpoints begin with its name; engines are made in this order.
        WHOLE_GROUPS: whether a micro-batch holds all responses to its prompts, and not one to each.
        temperature: of sampling, and of the log-probabilities learnt from; 1 where the sampling is
            greedy.
        places: where prompts, λ and seeds stood before each prompt batch whose responses are still
            to come, oldest first.
        text_place: where the supervised text stood before the batch beside the first of them.
    """

    TRAINING_TYPE: ClassVar[str] = "rl"
    TRAINED: ClassVar[dict[str, str]] = {"actor": "actor_model"}
    WHOLE_GROUPS: ClassVar[bool] = False

    actor_model: Any
    actor_reference_model: Any
    reward_model: Any

    def __init__(
        self, args: RewardedConfig, ds_train_config: dict[str, Any], ds_eval_config: dict[str, Any]
    ) -> None:
        self.args = args
        self.places: deque[tuple[dict[str, Any], dict[str, Any]]] = deque()
        self.text_place: dict[str, Any] | None = None
        self.ds_config = self.ds_train_config = ds_train_config
        self.ds_eval_config = ds_eval_config
        self.run_init_hooks()
        if get_world_size() > 1:
            # The models were made from one seed on all processes; responses must not be drawn
            # from one, or row i of every process would share its random numbers.
            torch.manual_seed(args.seed + get_rank())
        self.kl_coeff = args.kl_coeff
        self.clip_range_ratio = args.clip_range_ratio
        self.ptx_coeff = args.ptx_coeff
        self.temperature = args.temperature or 1.0

    def init_models(self) -> None:
        """Load the policy, what it is held against, and what scores it; say how to sample."""
        self.init_actor()
        self.init_reference()
        self.init_rewards()
        args = self.args
        self.generation_config = SamplingConfig(
            max_length=args.max_length,
            eos_token_id=self.template.stop_ids(self.actor_model),
            pad_token_id=self.tokenizer.pad_token_id,
            temperature=args.temperature,
            top_p=args.top_p,
            repetition_penalty=args.repetition_penalty,
            num_return_sequences=args.num_return_sequences,
        )

    def load_policy(self) -> tuple[Any, Any]:
        """The policy as it is on disk, and its tokenizer, which pads on the left."""
        return load_model(self.args, self.args.actor_model_name_or_path, "left")

    def init_actor(self) -> None:
        self.actor_model, self.tokenizer = self.load_policy()

    @abc.abstractmethod
    def init_reference(self) -> None:
        """Provide the reference that the KL term is held against."""

    @abc.abstractmethod
    def init_rewards(self) -> None:
        """Load what scores a response."""

    def init_datasets(self) -> None:
        """Load prompts and, if asked for, supervised text for the PTX loss.

        Raises:
            UserError: the run would end before its first update.
        """
        args, whole_groups = self.args, self.WHOLE_GROUPS
        rollout = rl_data.prompts_of_rollout(args, whole_groups)
        options = {"tokenizer": self.tokenizer, "seed": args.seed, "template": self.template}
        loaders = train_and_eval(args, lambda specs: PromptOnlyDataset(specs, **options), rollout)
        self.prompt_only_dataloader, self.data_sampler, self.eval_dataloader = loaders
        self.ptx_dataloader: DataLoader[Any] | None = None
        self.use_ptx = args.ptx_datasets is not None
        if self.use_ptx:
            texts = SupervisedDataset(args.ptx_datasets, **options)
            self.ptx_dataloader, self.ptx_sampler = build_loader(
                texts, rollout * args.num_return_sequences, args.seed
            )
        prompts, accumulated = len(self.data_sampler), args.gradient_accumulation_steps
        self.steps_per_epoch = rl_data.steps_per_epoch(prompts, args, whole_groups)
        self.total_steps = run_length(args, self.steps_per_epoch) if self.steps_per_epoch else 0
        if self.total_steps < accumulated:
            raise UserError(
                f"the run has {self.total_steps} training steps, fewer than "
                f"--gradient_accumulation_steps {accumulated}: it would end before its first "
                f"update; give more prompts than {prompts}, or fewer --gradient_accumulation_steps"
            )
        vary = any(map(has_dropout, self.checkpoint_engines().values()))
        self.used_once = args.update_iters == 1 and not vary

    def init_engines(self) -> None:
        """Make the engines; with PTX the actor has twice as many backward passes per update.

        Training steps at the end of a run that are too few for an update make none.
        """
        configs = {role: dict(self.ds_train_config) for role in self.TRAINED}
        if self.use_ptx:
            configs["actor"]["train_batch_size"] *= 2
            configs["actor"]["gradient_accumulation_steps"] *= 2
        updates = self.total_steps // self.ds_train_config["gradient_accumulation_steps"]
        for role, model in self.checkpoint_engines().items():
            engine = init_train_engine(model, self.args, configs[role], updates, f"{role}_")
            setattr(self, self.TRAINED[role], engine)
        fitting_way(unwrap(self.actor_model), self.generation_config)  # or it is refused here

    def checkpoint_engines(self) -> dict[str, Any]:
        """Role to model, after ``init_engines`` to engine, of all that is trained."""
        return {role: getattr(self, attribute) for role, attribute in self.TRAINED.items()}

    def samplers(self) -> list[ResumableSampler]:
        return [self.data_sampler, *([self.ptx_sampler] if self.use_ptx else [])]

    def training_state(self) -> TrainingState:
        """With the place in the supervised text; prompts without responses count as not taken."""
        state = super().training_state()
        state.ptx_sampler = self.ptx_sampler.state_dict() if self.use_ptx else None
        if self.places:
            state.sampler, state.panacea = self.places[0]
        if self.text_place is not None:
            state.ptx_sampler = self.text_place
        return state

    def restore(self, state: TrainingState) -> None:
        super().restore(state)
        if state.ptx_sampler is not None and self.use_ptx:
            self.ptx_sampler.load_state_dict(state.ptx_sampler)

    def set_train(self, mode: bool = True) -> None:
        """Set the mode of what is trained; recomputation of activations is off in rollouts."""
        for role, engine in self.checkpoint_engines().items():
            engine.train(mode)
            if getattr(self.args, f"{role}_gradient_checkpointing"):
                set_gradient_checkpointing(engine, mode)
