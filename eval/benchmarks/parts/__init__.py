"""The parts of the benchmark by name: title, cases in the parent's words, what a worker prepares.

Cases come from the flags. ``prepare(job)`` gives a function that takes a ``Stopwatch`` and does the
work once.
"""

from benchmarks.inputs import write_models
from benchmarks.parts import dpo, layer, ppo, shortcuts

PARTS = {
    "layer": ("One layer, forward and backward", layer.cases),
    "switch": ("Setting another λ", layer.switch_cases),
    "shortcuts": (shortcuts.TITLE, shortcuts.cases),
    "dpo": ("A step of DPO", dpo.cases),
    "ppo": ("A rollout of PPO and its updates", ppo.cases),
    "front": ("Responses at several λ", layer.front_cases),
    "growth": ("What a step of Panacea-DPO grows with", dpo.growth_cases),
}
PREPARE = {
    "layer": layer.prepare,
    "switch": layer.prepare_switch,
    "front": layer.prepare_front,
    "shortcuts": shortcuts.prepare,
    "dpo": dpo.prepare,
    "ppo": ppo.prepare,
    "models": write_models,  # not measured
}
