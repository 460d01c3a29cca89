"""The quickstart end to end: from nothing to two Pareto fronts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from copy import copy
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.baselines.rewarded_soups import vertices
from safe_rlhf_panacea.configs import Program, option
from safe_rlhf_panacea.configs.training import FromNothingOptions
from safe_rlhf_panacea.dashboard import Content, write_files, write_page
from safe_rlhf_panacea.errors import one_line_errors
from safe_rlhf_panacea.experiments.table import OBJECTIVES, read_yaml, settings
from safe_rlhf_panacea.fronts.evaluations import Evaluation
from safe_rlhf_panacea.fronts.measurement import Measurement
from safe_rlhf_panacea.io import atomic_write_json, atomic_write_text, read_json
from safe_rlhf_panacea.miniature.corpus import EXAMPLES, NOTE
from safe_rlhf_panacea.miniature.report import (
    Stopwatch,
    draw_fronts,
    greedy_answers,
    render,
    severity_table,
)
from safe_rlhf_panacea.miniature.stages import Judge, Miniature, Results, second_process
from safe_rlhf_panacea.preference import preference_grid
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.records import Examples, write_examples
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.runs.run_folder import point_latest
from safe_rlhf_panacea.runs.run_record import package_versions

PROGRAM = "python -m safe_rlhf_panacea.miniature"


class Pipeline:
    """Runs the stages in order and collects what they give."""

    def __init__(self, miniature: Miniature) -> None:
        """Prepare to run the stages; nothing is written yet."""
        self.miniature = miniature
        self.settings = miniature.settings
        self.stopwatch = Stopwatch(7)
        self.grid = preference_grid(len(OBJECTIVES), self.settings.grid_step)
        self.experiments: dict[str, Results] = {}
        self.responses: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """Run all stages; write ``results.json`` and return it, its fronts as ``FrontResult``."""
        with second_process() as self.beside:
            self.prepare()
            self.run_algorithm("dpo", self.settings.dpo_steps)
            self.run_algorithm("ppo", self.settings.ppo_steps)
        seconds = self.stopwatch.seconds
        units = read_json(self.miniature.calibration)
        results = {
            "experiments": self.experiments,
            "severity_table": severity_table(self.responses),
            "calibration": {name: [units[name][k] for k in ("mean", "std")] for name in OBJECTIVES},
            "settings": vars(self.settings),
            "departures_from_the_paper": read_yaml("miniature.yaml")["departures_from_the_paper"],
            "seed": self.miniature.seed,
            "seconds": {**seconds, "total": round(sum(seconds.values()), 2)},
            "versions": package_versions(),
        }
        plain = {
            name: {method: result.to_json() for method, result in found.items()}
            for name, found in self.experiments.items()
        }
        atomic_write_json(self.miniature.root / "results.json", {**results, "experiments": plain})
        return results

    def prepare(self) -> None:
        """Make the corpus, the SFT model and the reward models."""
        with self.stopwatch.stage("world", "Writing the corpus and an untrained model"):
            self.miniature.build_world()
        with self.stopwatch.stage("sft", "Supervised fine-tuning"):
            self.miniature.train_sft()
        with self.stopwatch.stage("rewards", "Training one reward model per objective"):
            first, second = OBJECTIVES
            beside = self.start(Miniature.train_reward, second)
            self.miniature.train_reward(first)
            beside.result()
            self.judge = Judge(self.miniature)
            self.judge.calibrate()

    def start(self, train: Callable[..., Any], *args: Any) -> Future[Any]:
        """Begin a training in the second process; it says nothing of how far it is."""
        silent = copy(self.miniature)
        silent.progress = False
        return self.beside.submit(train, silent, *args)

    def run_algorithm(self, algorithm: str, steps: int) -> None:
        """Train Panacea with ``dpo`` or ``ppo``, beside it soups of equal steps, and evaluate."""
        name, each, soups = algorithm.upper(), steps // len(OBJECTIVES), vertices(OBJECTIVES)
        text = f"Panacea with {name}, {steps} steps, and beside it Rewarded Soups"
        with self.stopwatch.stage(f"train_{algorithm}", f"{text}, {len(OBJECTIVES)} × {each}"):
            baseline = (Miniature.train_baseline, algorithm, f"soups-{algorithm}", each, soups)
            beside = self.start(*baseline)
            panacea = self.miniature.train_panacea(algorithm, f"panacea-{algorithm}", steps)
            if not beside.done():
                print("Waiting for Rewarded Soups", flush=True)
            ingredients: list[Path] = beside.result()
        with self.stopwatch.stage(f"evaluate_{algorithm}", f"Evaluating the {name} fronts"):
            started = time.perf_counter()
            measured = self.evaluate(algorithm, panacea)
            seconds = time.perf_counter() - started
            write_examples(panacea, Examples(prompts=EXAMPLES, note=NOTE))
            if algorithm == "dpo":
                self.show_dpo(panacea, measured, seconds)
            else:
                self.responses = measured.responses()
            self.evaluate(algorithm, ingredients)

    def evaluate(self, algorithm: str, folders: Path | Sequence[Path]) -> Measurement:
        """Measure one adapter, or a soup, and keep its fronts; returns what was measured."""
        method = self.judge.method(folders)
        found, measured = self.judge.results(algorithm, method, self.grid)
        for name, result in found.items():
            self.experiments.setdefault(name, {})[method.name] = result
        return measured

    def show_dpo(self, folder: Path, measured: Measurement, seconds: float) -> None:
        """Leave Panacea-DPO's front in its folder, as a training does that is evaluated at its end.

        The answers on its page are the likeliest ones; Panacea-PPO shows its front while it trains.
        """
        model = PanaceaModel.load(folder)
        result = self.experiments["dpo"]["panacea"]
        named = result.having(label=folder.name, step=self.settings.dpo_steps)
        evaluation = Evaluation.of(measured, named, model.adapter, seconds=seconds)
        answers = greedy_answers(model, EXAMPLES)
        content = Content([evaluation.having(responses=answers)])
        write_files(folder, content)
        write_page(folder, content, running=False)


class MiniatureOptions(FromNothingOptions):
    """From nothing to two Pareto fronts, in minutes on a CPU and with no downloads.

    Writes a corpus, trains a base model, one reward model per objective, Panacea and
    Rewarded Soups with DPO and with PPO, and ends with pictures, tables and results.json.
    """

    output_dir: str | None = option(text="default: runs/quickstart-<time>")


COMMAND = Program(MiniatureOptions, PROGRAM, example=f"{PROGRAM} --output_dir runs/mine --seed 3")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Run the miniature from start to end."""
    options = COMMAND.read(argv)
    preset = settings("miniature", "smoke" if options.smoke else "quick")
    pipeline = Pipeline(Miniature.begin(options, PROGRAM, "quickstart", settings=preset))
    root, results = pipeline.miniature.root, pipeline.run()
    draw_fronts(root, pipeline.experiments)
    point_latest(root)
    page = render("page", root, results)
    atomic_write_text(root / "report.txt", f"{page}\n\n{render('tables', root, results)}\n")
    say(f"\nTook {results['seconds']['total']:.0f} s.\n\n{page}")


if __name__ == "__main__":
    main()
