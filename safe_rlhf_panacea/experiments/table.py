"""The table of experiments: every stage of the reproduction, in order, as a row."""

from __future__ import annotations

from dataclasses import dataclass

_BASELINES = "safe_rlhf_panacea.baselines"
EVALUATION = "safe_rlhf_panacea.evaluation"
_SAFE_RLHF = "none: the paper gives no values for reward models; these are Safe-RLHF's"
_RANK_9 = "with the baselines' rank k + 1 = 9 (appendix D)"


@dataclass(frozen=True)
class Stage:
    """A row.

    Attributes:
        name: of the stage; a launcher's run lies in a folder of this name.
        program: a module, or a file of the checkout.
        flags: its own, whatever the size; a word with ``*`` stands for the folders that match.
        launcher: the script that shows the paper's hyperparameters; its stem is the key of the
            size's flags.
        mirrors: which table of the paper the launcher shows.
        needs: stages without which it cannot run.
        evaluation: the key of the size's evaluation flags.
        each: a pattern below ``{runs}``; a stage for every folder that matches, ``{folder}``, with
            ``{each}`` for its name and ``{words}`` for its name without dashes.
        makes: the file that says that it is done, of a stage that leaves no ``run.json``.
        settings: the key of the size's flags, where it is neither the launcher's nor the name.
    """

    name: str
    program: str
    flags: str = ""
    launcher: str = ""
    mirrors: str = ""
    needs: tuple[str, ...] = ()
    evaluation: str = ""
    each: str = ""
    makes: str = ""
    settings: str = ""

    @property
    def key(self) -> str:
        """Of the size's flags."""
        return self.settings or self.launcher.removesuffix(".sh") or self.name


def _training(
    name: str, program: str, mirrors: str, needs: tuple[str, ...], flags: str = ""
) -> Stage:
    launcher = "panacea_dpo.sh" if flags else f"{name.replace('-', '_')}.sh"
    return Stage(name, program, flags, launcher, mirrors, needs)


def evaluation_of(name: str, kind: str, flags: str, each: str = "") -> Stage:
    """An evaluation into ``evaluation/<name>``; ``kind`` is the key of the size's evaluations."""
    output = f"--output_dir {{runs}}/evaluation/{name} --overwrite --seed {{seed}}"
    return Stage(f"evaluation-{name}", EVALUATION, f"{output} {flags}", evaluation=kind, each=each)


def _members(baseline: str, algorithm: str) -> Stage:
    name = f"{baseline.replace('_', '-')}-{algorithm}"
    kind = "dpo" if algorithm == "dpo" else "ppo"
    return evaluation_of(name, kind, f"--method {baseline} --adapter {{runs}}/{name}/*")


def _figure(name: str, program: str, flags: str) -> Stage:
    output = "--output_dir {runs}/figures --overwrite"
    return Stage(name, f"eval/{program}.py", f"{output} {flags}")


def fronts_of(*names: str) -> str:
    """The folders of evaluations, ready for a command line."""
    return " ".join(f"{{runs}}/evaluation/{name}" for name in names)


_DPO_NEEDS = ("world", "sft")
_PPO_NEEDS = (*_DPO_NEEDS, "reward-helpful", "reward-harmless", "calibration")
_REWARD = "safe_rlhf_panacea.base.values.reward"
DPO, PPO = "safe_rlhf_panacea.algorithms.dpo", "safe_rlhf_panacea.algorithms.ppo"
GRPO = "safe_rlhf_panacea.algorithms.grpo"
_CALIBRATE = "safe_rlhf_panacea.evaluation.calibrate"

SOUPS, _DISCRETE = f"{_BASELINES}.rewarded_soups", f"{_BASELINES}.discrete_policies"
_ABLATION = f"{_BASELINES}.fixed_scaling"
_FINETUNE = "safe_rlhf_panacea.base.finetune"
_TAKEN = "none: the paper takes PKU-Alignment/alpaca-7b-reproduced; these are Safe-RLHF's values"
_FIXED = "Table 1, with s fixed (section 5.2, Figure 7)"
_NO_GRPO = "none: the paper has no GRPO"
_THREE = "Table 1, with a third objective as in the paper's later version"
_THREE_NEEDS = (*_PPO_NEEDS, "calibration-three-objectives")

# What the other stages of a size that is made on the spot need, and no reproduction lists.
PREPARATIONS = (
    Stage("world", "safe_rlhf_panacea.miniature.world", makes="world/world.json"),
    Stage("calibration", _CALIBRATE, makes="calibration.json"),
    Stage("calibration-three-objectives", _CALIBRATE, makes="calibration-three-objectives.json"),
)

TRAININGS = (
    _training("sft", _FINETUNE, _TAKEN, ("world",)),
    _training("reward-helpful", _REWARD, _SAFE_RLHF, _DPO_NEEDS),
    _training("reward-harmless", _REWARD, _SAFE_RLHF, _DPO_NEEDS),
    _training("panacea-ppo", PPO, "Table 1", _PPO_NEEDS),
    _training("rewarded-soups-ppo", SOUPS, f"Table 1, {_RANK_9}", _PPO_NEEDS),
    _training("discrete-policies-ppo", _DISCRETE, f"Table 1, {_RANK_9}", _PPO_NEEDS),
    _training("panacea-dpo-ls", DPO, "Table 2", _DPO_NEEDS, "--aggregation ls"),
    _training("panacea-dpo-tche", DPO, "Table 2", _DPO_NEEDS, "--aggregation tche"),
    _training("rewarded-soups-dpo", SOUPS, f"Table 2, {_RANK_9}", _DPO_NEEDS),
    _training("discrete-policies-dpo", _DISCRETE, f"Table 2, {_RANK_9}", _DPO_NEEDS),
    _training("ablation-scaling", _ABLATION, _FIXED, _PPO_NEEDS),
    _training("panacea-ppo-three-objectives", PPO, _THREE, _THREE_NEEDS),
)

_EACH = "--adapter {folder} --with_base false --label"
_STEPS, _FACTORS = "panacea-ppo/checkpoints/adapter/step-*", "ablation-scaling/*"
_DPO_LS = '--adapter {runs}/panacea-dpo-ls --label "Panacea, LS"'
_DPO_TCHE = '--adapter {runs}/panacea-dpo-tche --label "Panacea, Tche"'
_THREE_FRONT = "--adapter {runs}/panacea-ppo-three-objectives --grid_step 0.2"

EVALUATIONS = (
    evaluation_of("panacea-ppo", "ppo", "--adapter {runs}/panacea-ppo"),
    _members("rewarded_soups", "ppo"),
    _members("discrete_policies", "ppo"),
    evaluation_of("panacea-ppo-{each}", "ppo", f'{_EACH} "Panacea, {{words}}"', _STEPS),
    evaluation_of("ablation-{each}", "ppo", f'{_EACH} "s = {{each}}"', _FACTORS),
    evaluation_of("panacea-dpo-ls", "dpo", _DPO_LS),
    evaluation_of("panacea-dpo-tche", "dpo", _DPO_TCHE),
    _members("rewarded_soups", "dpo"),
    _members("discrete_policies", "dpo"),
    evaluation_of("three-objectives", "three", _THREE_FRONT),
)

_PANACEA = f"--run {fronts_of('panacea-ppo')}"
_PPO_FRONTS = fronts_of("panacea-ppo", "rewarded-soups-ppo", "discrete-policies-ppo")
_DPO_FRONTS = fronts_of("panacea-dpo-ls", "panacea-dpo-tche")
_DPO_FRONTS += f" {fronts_of('rewarded-soups-dpo', 'discrete-policies-dpo')}"
_STEP_FRONTS, _FIXED_FRONTS = (
    fronts_of("panacea-ppo-step-*"),
    fronts_of("panacea-ppo", "ablation-*"),
)
_REPORT = "--figures {runs}/figures --output {runs}/report.html --overwrite"

FIGURES = (
    _figure("figure-3", "figure_3_reward_distributions", _PANACEA),
    _figure("figure-4-left", "figure_4_left_ppo_fronts", f"--runs {_PPO_FRONTS}"),
    _figure("figure-4-right", "figure_4_right_front_evolution", f"--runs {_STEP_FRONTS}"),
    _figure("figure-5", "figure_5_dpo_fronts", f"--runs {_DPO_FRONTS}"),
    _figure("figure-6", "figure_6_8_responses", f"{_PANACEA} --extremes"),
    _figure("figure-8", "figure_6_8_responses", _PANACEA),
    _figure("figure-7", "figure_7_scaling_ablation", f"--runs {_FIXED_FRONTS}"),
    _figure("three-objectives", "three_objectives", f"--runs {fronts_of('three-objectives')}"),
    _figure("singular-values", "singular_values", "--adapter {runs}/panacea-ppo"),
    Stage("report", "eval/report.py", _REPORT),
)

REPRODUCTION = (*TRAININGS, *EVALUATIONS, *FIGURES)
# What the paper does not have; run when asked for.
BEYOND = (
    _training("panacea-grpo", GRPO, _NO_GRPO, _PPO_NEEDS),
    _training("rewarded-soups-grpo", SOUPS, _NO_GRPO, _PPO_NEEDS),
    evaluation_of("panacea-grpo", "ppo", "--adapter {runs}/panacea-grpo"),
    _members("rewarded_soups", "grpo"),
)
STAGES = {stage.name: stage for stage in (*PREPARATIONS, *REPRODUCTION, *BEYOND)}


def launched_by(launcher: str) -> Stage | None:
    """The first stage of a launcher; None for a script that is none."""
    return next((stage for stage in STAGES.values() if stage.launcher == launcher), None)
