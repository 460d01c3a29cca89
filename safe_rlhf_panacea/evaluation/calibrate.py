"""Mean and spread of every reward on responses of the initial model, for --reward_calibration."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from safe_rlhf_panacea.configs import Program
from safe_rlhf_panacea.configs.rewarded import ResponseOptions, RewardFileOptions
from safe_rlhf_panacea.data import ChatTemplate
from safe_rlhf_panacea.errors import one_line_errors
from safe_rlhf_panacea.evaluation import loading
from safe_rlhf_panacea.fronts.measure import sample_base
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rewards.spec import write_calibration
from safe_rlhf_panacea.show.tables import align

PROGRAM = "python -m safe_rlhf_panacea.evaluation.calibrate"


class CalibrateOptions(RewardFileOptions, ResponseOptions):
    """Measure each reward on responses of the initial model.

    PPO and evaluation can bring all of them to one unit with --reward_calibration FILE.
    """


COMMAND = Program(
    CalibrateOptions,
    PROGRAM,
    example=f"""
    {PROGRAM} --model_name_or_path runs/sft --datasets prompts:256/-1:prompts.jsonl \\
      --reward_models helpful=runs/reward-helpful harmless=runs/reward-harmless \\
      --output_file runs/calibration.json
    """,
)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Sample responses, score them, write each reward's mean and spread and print them."""
    options = COMMAND.read(argv)
    specs = loading.read_rewards(options, None)
    model, tokenizer = loading.load_model(options, options.model_name_or_path)
    template = ChatTemplate.of(str(options.chat_template), tokenizer)
    policy = loading.policy_of(options, model, None, template)
    rewards = loading.rewards_for(options, specs, tokenizer, policy.sampling.stop_ids)
    prompts = loading.read_prompts(options, template)
    rewards.check_columns([prompt.example for prompt in prompts], "the prompts")
    found = sample_base(policy, rewards, prompts).rewards[0].float()
    # As the models give them: signs are applied after the calibration.
    signs = torch.tensor([spec.sign for spec in specs])
    names = [spec.name for spec in specs]
    write_calibration(options.output_file, names, found * signs)
    rows = [["objective", "mean", "std", "responses"]]
    for name, entry in read_json(options.output_file).items():
        rows.append([name, f"{entry['mean']:.4f}", f"{entry['std']:.4f}", str(entry["responses"])])
    say(f"{align(rows)}\n\nWritten to {options.output_file}")


if __name__ == "__main__":
    main()
