"""Mean and spread of every reward on the initial model's responses, for ``--reward_calibration``.

``python -m safe_rlhf_panacea.evaluation.calibrate``
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from safe_rlhf_panacea.base.arguments import (
    ArgumentParser,
    add_flag,
    add_template_argument,
    filled,
)
from safe_rlhf_panacea.data import ChatTemplate
from safe_rlhf_panacea.data.specs import read_specs
from safe_rlhf_panacea.errors import one_line_errors
from safe_rlhf_panacea.evaluation.arguments import (
    add_reward_flags,
    add_sampling_flags,
    check_rewards_and_file,
    load_model,
    policy_of,
    read_prompts,
    read_rewards,
    rewards_of,
)
from safe_rlhf_panacea.fronts.measure import sample_base
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rewards.calibration import write_calibration
from safe_rlhf_panacea.show.tables import align

PROGRAM = "python -m safe_rlhf_panacea.evaluation.calibrate"


def build_parser() -> argparse.ArgumentParser:
    """The parser of this program's flags."""
    parser = ArgumentParser(
        PROGRAM,
        """
        Measure each reward on responses of the initial model, so that PPO and evaluation can
        bring all of them to one unit with --reward_calibration FILE.
        """,
        f"""
        {PROGRAM} --model_name_or_path runs/sft --datasets prompts:256/-1:prompts.jsonl \\
          --reward_models helpful=runs/reward-helpful harmless=runs/reward-harmless \\
          --output_file runs/calibration.json
        """,
    )
    parser.add_argument("--model_name_or_path", type=filled, required=True, help="the SFT model")
    parser.add_argument("--output_file", type=filled, required=True, help="JSON; must not exist")
    add_flag(parser, "--overwrite", False, "replace the file")
    add_template_argument(parser)
    add_reward_flags(parser)
    add_sampling_flags(parser)
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Sample responses, score them, write each reward's mean and spread and print them."""
    args = build_parser().parse_args(argv)
    check_rewards_and_file(args, "calibrate")
    read_specs(args.datasets)
    specs = read_rewards(args, None)
    model, tokenizer = load_model(args, args.model_name_or_path)
    names = [spec.name for spec in specs]
    template = ChatTemplate.of(args.chat_template, tokenizer)
    policy = policy_of(args, model, None, template)
    rewards = rewards_of(args, specs, policy)
    prompts = read_prompts(args, template)
    rewards.check_columns([prompt.example for prompt in prompts], "the prompts")
    found = sample_base(policy, rewards, prompts).rewards[0].float()
    # As the models give them: signs are applied after the calibration.
    signs = torch.tensor([spec.sign for spec in specs])
    write_calibration(args.output_file, names, found * signs)
    rows = [["objective", "mean", "std", "responses"]]
    for name, entry in read_json(args.output_file).items():
        rows.append([name, f"{entry['mean']:.4f}", f"{entry['std']:.4f}", str(entry["responses"])])
    say(f"{align(rows)}\n\nWritten to {args.output_file}")


if __name__ == "__main__":
    main()
