"""What a user's script looks like to mypy: the lines that it has to find wrong say so.

``make lint`` reads this file, and an ignored error that there is not is an error itself.
"""

from __future__ import annotations

from pathlib import Path

from safe_rlhf_panacea import DPOConfig, GRPOConfig, PanaceaDPO, PanaceaGRPO


def brief(responses: list[str], **_: object) -> list[float]:
    """Score short responses higher."""
    return [-len(response) / 40 for response in responses]


def main() -> None:
    """Train, measure and answer."""
    config = GRPOConfig(max_steps=40).with_(seed=1)
    run = PanaceaGRPO("model", {"brief": brief}, [{"prompt": "a"}], config=config).train()
    print(run.evaluate({"brief": 1.0}).points, run.config.num_return_sequences)
    print(run.model.respond([{"role": "user", "content": "a"}], [1.0]))
    here = Path("runs")
    GRPOConfig(output_dir=here / "grpo", log_dir=here, report_to=["trackio"], objectives=["brief"])
    DPOConfig(reference_point=[0, 0.5], train_datasets=["pairs.jsonl"], chat_template=here / "t")
    DPOConfig(fixed_preference=[0.2, 0.8])
    GRPOConfig(fixed_preference={"brief": 1}, reward_scales={"brief": 2.0})
    GRPOConfig(lora_dim="x")  # type: ignore[arg-type]
    GRPOConfig(lora_dimm=3)  # type: ignore[call-arg]
    GRPOConfig(advantage="sum")  # type: ignore[arg-type]
    PanaceaDPO("model", "pairs.jsonl", config=config)  # type: ignore[arg-type]
    PanaceaDPO("model", "pairs.jsonl", config=DPOConfig()).trian()  # type: ignore[attr-defined]
