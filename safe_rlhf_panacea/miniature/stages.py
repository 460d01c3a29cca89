"""The miniature's trainings and evaluations, with the flags of ``miniature.yaml``."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.base.finetune import main as sft_main
from safe_rlhf_panacea.base.values.reward import main as reward_main
from safe_rlhf_panacea.baselines.variants import PROGRAMS, Variants, train_variants
from safe_rlhf_panacea.data import ChatTemplate, PreferenceDataset
from safe_rlhf_panacea.data.template import AUTO
from safe_rlhf_panacea.evaluation.loading import Method, read_member
from safe_rlhf_panacea.experiments.table import OBJECTIVES, Run, reference_points
from safe_rlhf_panacea.forward import SamplingConfig, generate
from safe_rlhf_panacea.fronts.measure import Policy
from safe_rlhf_panacea.fronts.measurement import LOG_SIGMOID, Measurement
from safe_rlhf_panacea.fronts.over_grid import Prompt, pad_left
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.io import read_json_lines
from safe_rlhf_panacea.miniature.corpus import true_scores
from safe_rlhf_panacea.miniature.world import World, build_world, load_world
from safe_rlhf_panacea.models import load_pretrained_models
from safe_rlhf_panacea.printing import quiet_libraries
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.loading import RewardLoading, load_rewards
from safe_rlhf_panacea.rewards.responses import Responses
from safe_rlhf_panacea.rewards.spec import RewardSpec, apply_calibration, write_calibration

CALIBRATION = "calibration.json"
# Of shared texts in miniature.yaml.
POLICIES = {"dpo": "dpo", "ppo": "ppo as_recorded"}
EVALUATION_SEED = 20_000
THREADS = "OMP_NUM_THREADS"  # which a process reads when it begins, and records
Results = dict[str, FrontResult]  # by the kinds of reference_points()


@dataclass(kw_only=True)
class Miniature(Run):
    """A run of the miniature."""

    SIZE = "miniature"
    world: World = field(init=False)  # of build_world or take_up

    def __post_init__(self) -> None:
        """Name the SFT model's folder, and the file with mean and spread of its rewards."""
        self.sft = self.root / "sft"
        self.calibration = self.root / CALIBRATION

    def reward(self, objective: str) -> Path:
        """The folder of an objective's reward model."""
        return self.root / f"reward-{objective}"

    def build_world(self) -> None:
        """Write corpus, tokenizer and an untrained model."""
        self.world = build_world(self.root / "world", self.seed)

    def take_up(self) -> None:
        """Use the world that an earlier process left in the folder."""
        self.world = load_world(self.root / "world")

    def flags(self, names: str, folder: str, **options: Any) -> list[str]:
        """The command line of a training, with texts of ``miniature.yaml``'s ``shared``."""
        values = {"runs": self.root, "max_length": self.world.max_length}
        values["reference_ppo"] = reference_points()["ppo"]
        return self.command_line(
            names, values, self.root / folder, **{"log_type": "none", **options}
        )

    def train_sft(self) -> None:
        """Fine-tune the untrained model on the corpus's texts."""
        sft_main(self.flags("sft", "sft"))

    def train_reward(self, objective: str) -> None:
        """Train an objective's reward model."""
        reward_main(self.flags("reward", f"reward-{objective}", objective=objective))

    def train_panacea(
        self, algorithm: str, name: str, steps: int, extra: Sequence[str] = ()
    ) -> Path:
        """Train Panacea with ``dpo`` or ``ppo``; return the adapter's folder."""
        shown = "shown_ppo" if algorithm == "ppo" and self.settings.eval_interval else ""
        rows = f"{POLICIES[algorithm]} many {shown}"
        flags = self.flags(rows, name, max_steps=steps, log_type=self.log_type)
        PROGRAMS[algorithm].main([*flags, *extra])
        return self.root / name

    def train_baseline(
        self, algorithm: str, name: str, steps_each: int, variants: Variants
    ) -> list[Path]:
        """Train the adapters of a baseline, of rank k + 1; return their folders in order."""
        rows = f"{POLICIES[algorithm]} rank_of_baselines"
        config = PROGRAMS[algorithm].parse_arguments(self.flags(rows, name, max_steps=steps_each))
        return list(train_variants(algorithm, config, variants).values())


class Judge:
    """Evaluates policies with the miniature's reward models, which it loads once."""

    def __init__(self, miniature: Miniature) -> None:
        """Load the reward models and the SFT model's tokenizer."""
        self.miniature = miniature
        max_length = miniature.world.max_length
        model, self.tokenizer = self.fresh_policy()
        self.template = ChatTemplate.of(AUTO, self.tokenizer)
        stop_ids = self.template.stop_ids(model)
        specs = [RewardSpec(name, str(miniature.reward(name))) for name in OBJECTIVES]
        self.raw = load_rewards(specs, self.tokenizer, stop_ids, RewardLoading(max_length))
        self.config = SamplingConfig(max_length, stop_ids, self.tokenizer.pad_token_id)

    def fresh_policy(self) -> tuple[Any, Any]:
        """The SFT model and its tokenizer."""
        return load_pretrained_models(
            str(self.miniature.sft),
            model_max_length=self.miniature.world.max_length,
            padding_side="left",
        )

    def prompts(self, split: str, most: int) -> list[Prompt]:
        """Prompts of a split, chosen at random by the run's seed."""
        rows = read_json_lines(self.miniature.world.file(f"prompts-{split}"))
        chosen = random.Random(self.miniature.seed).sample(rows, min(most, len(rows)))
        texts = [row["prompt"] for row in chosen]
        return [Prompt(text, self.template.prompt_ids(text)) for text in texts]

    def calibrate(self) -> None:
        """Keep mean and spread of each raw reward on responses of the SFT model, for PPO."""
        model, _ = self.fresh_policy()
        prompts = self.prompts("train", self.miniature.settings.calibration_prompts)
        ids, mask = pad_left([prompt.input_ids for prompt in prompts], self.tokenizer.pad_token_id)
        generator = torch.Generator().manual_seed(self.miniature.seed)
        sequences, attended = generate(model.eval(), ids, mask, self.config, generator)
        rewards = self.raw(Responses(sequences, attended, ids.size(1)))
        write_calibration(self.miniature.calibration, OBJECTIVES, rewards)

    def method(self, folders: Path | Sequence[Path], name: str | None = None) -> Method:
        """The SFT model with one adapter, or with the adapters of a method such as soups."""
        folders = [folders] if isinstance(folders, Path) else folders
        model, _ = self.fresh_policy()
        return Method(model, [read_member(folder) for folder in folders], name)

    def results(
        self,
        algorithm: str,
        method: Method,
        grid: torch.Tensor,
        label: str = "",
        split: str = "eval",
    ) -> tuple[Results, Measurement]:
        """The fronts of a method trained with ``dpo`` or ``ppo``, and what they are made of.

        There are two of each. Responses of ``ppo`` are judged by the reward models and, as
        ``ppo_true_scores``, by the corpus, whose scores no model has seen. Pairs of ``dpo`` give
        accuracies and, as ``dpo_log_sigmoid``, their losses with the sign turned, in nats. The
        grid has size = (N, 2); ``split`` is of the prompts, ``eval`` or ``tune``.
        """
        miniature, settings = self.miniature, self.miniature.settings
        model, adapter, shown = method.model, method.adapter, miniature.progress
        policy = Policy(
            model, adapter, self.tokenizer, self.config, EVALUATION_SEED, progress=shown
        )
        what: dict[str, Any]
        if algorithm == "dpo":
            self.tokenizer.padding_side = "right"
            data = f"pairs:{settings.eval_pairs}/-1:{miniature.world.file('pairs-eval')}"
            pairs = PreferenceDataset([data], self.tokenizer, OBJECTIVES)
            what = {"pairs": pairs, "margin_scale": method.margin_scale}
        else:
            specs = apply_calibration(self.raw.specs, miniature.calibration)
            rewards = RewardEnsemble(specs, self.raw.scorers, self.raw.models)
            prompts = self.prompts(split, settings.eval_prompts) * settings.eval_repeats
            what = {"prompts": prompts, "rewards": rewards}
        measured = method.measure(policy, grid, label=label, **what)
        views = {algorithm: measured}
        if algorithm == "dpo":
            views["dpo_log_sigmoid"] = replace(measured, kind=LOG_SIGMOID)
        else:
            sampled = measured.sampled
            scores = [torch.from_numpy(true_scores(measured.prompts, t)) for t in sampled.texts]
            judged = replace(sampled, rewards=torch.stack(scores))  # size = (N, P, 2)
            views["ppo_true_scores"] = replace(measured, sampled=judged, kind="true score")
        points, units = reference_points(), {"ppo": "mean reward in SFT std."}
        origin = method.origin(label)
        found = {
            name: view.result(OBJECTIVES, origin, points[name], unit=units.get(name))
            for name, view in views.items()
        }
        return found, measured


# -- the second process of the quickstart ---------------------------------------------------


@contextmanager
def second_process() -> Iterator[Executor]:
    """Give an executor with one process; both processes have one thread meanwhile.

    Models this small gain little by a second thread, and a sum over several threads is another
    number than one over one. An error of what runs there is raised where its result is asked for.
    """
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(1, mp_context=context, initializer=_begin)
    others = multiprocessing.active_children()
    given, threads = os.environ.get(THREADS), torch.get_num_threads()
    os.environ[THREADS] = "1"
    torch.set_num_threads(1)
    try:
        # The process starts with interruptions ignored: they are for this one.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            executor.submit(int)
        finally:
            signal.signal(signal.SIGINT, before)
        yield executor
    except BaseException:  # an interruption too: nobody waits for the rest
        for process in set(multiprocessing.active_children()).difference(others):
            process.terminate()
        raise
    finally:
        executor.shutdown()
        torch.set_num_threads(threads)
        del os.environ[THREADS]
        if given is not None:
            os.environ[THREADS] = given


def _begin() -> None:
    """Set up the second process: it prints nothing but errors, and ends with the first one."""
    first = multiprocessing.parent_process()
    assert first is not None  # this one was started by it

    def end_with_the_first() -> None:  # while it waits for work it would not notice
        first.join()
        os._exit(1)

    threading.Thread(target=end_with_the_first, daemon=True).start()
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    quiet_libraries()
