"""The text of a model card; all that comes from files is shown as it is, never as Markdown."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import safe_rlhf_panacea
from safe_rlhf_panacea.adapter import AdapterConfig
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.preference import format_preference
from safe_rlhf_panacea.printing import markdown_text, printable, printable_line
from safe_rlhf_panacea.show.tables import Table, front_rows, indicators_table

PAPER = "https://arxiv.org/abs/2402.02030"
LIBRARY = "safe-rlhf-panacea"
TAGS = ("panacea", "pareto", "multi-objective", "preference-conditioned", "rlhf", "lora")
PICTURE_FILE = "front.png"
TEMPLATES = {"safe-rlhf": "Safe-RLHF's", "none": "none: prompts go in as they are"}
UNKNOWN_BASE = "BASE"  # in the examples, where nobody else could load the base model


@dataclass(frozen=True)
class Facts:
    """What a card tells.

    Attributes:
        name: the adapter's, which is also the folder's in the examples.
        config: of the adapter.
        base_model: its name on the hub; None for a folder of the machine that it was trained on.
        base_folder: the name of that folder.
        record: ``run.json`` without what is local; empty where there is none.
        flags: the training's, but for those at their defaults.
        steps: of training; None where they are not known.
        front: what was measured; None where nothing was.
        repo: where it is uploaded to; None where it is not.
        licence: by its id on the hub; None leaves it open.
    """

    name: str
    config: AdapterConfig
    base_model: str | None
    base_folder: str
    record: Mapping[str, Any]
    flags: Sequence[str]
    steps: int | None
    front: FrontResult | None = None
    repo: str | None = None
    licence: str | None = None

    @property
    def objectives(self) -> list[str]:
        """Names in the order of λ; empty for an adapter that does not depend on it."""
        m = self.config.pref_dim
        return list(self.config.objectives[:m]) or [f"objective {i + 1}" for i in range(m)]

    @property
    def share(self) -> float | None:
        """Of the weights of the model's layers, what is adapted; None in older records."""
        share = self.record.get("adapted_share")
        return share if isinstance(share, int | float) else None

    @property
    def algorithm(self) -> str:
        """``dpo`` and the like; empty where it is not known."""
        name = str(self.record.get("program", "")).rpartition(".")[2]
        return name if name.isidentifier() and name.isascii() else ""


def block(text: str, language: str) -> str:
    """Code, in a fence that nothing in it can close."""
    ticks = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, ticks + 1)
    return f"{fence}{language}\n{printable(text)}\n{fence}"


def front_matter(facts: Facts) -> Iterator[str]:
    """What the hub reads; JSON's strings are YAML's."""
    yield "---"
    if facts.base_model:
        yield f"base_model: {json.dumps(facts.base_model)}"
        yield "base_model_relation: adapter"
    yield f"library_name: {LIBRARY}"
    yield "pipeline_tag: text-generation"
    if facts.licence:
        yield f"license: {json.dumps(facts.licence)}"
    yield "tags:"
    yield from (f"- {json.dumps(tag)}" for tag in (*TAGS, facts.algorithm) if tag)
    yield "---"


def about(facts: Facts) -> Iterator[str]:
    """What this is, in a paragraph and a table."""
    config, names = facts.config, ", ".join(map(markdown_text, facts.objectives))
    yield f"# {markdown_text(facts.name)}"
    if names:
        yield (
            f"A [Panacea]({PAPER}) adapter: one model that holds the whole Pareto front of several "
            "objectives. The preference vector λ chooses a point of it when the model is asked, "
            "without further training."
        )
    else:
        yield "An SVD-LoRA trained for one preference: it does not depend on λ."
    base = facts.base_model or f"{facts.base_folder} (a folder of the machine it was trained on)"
    rows = [["base model", base]]
    if names:
        rows.append(["objectives, in the order of λ", ", ".join(facts.objectives)])
        rows.append(["λ", "one weight per objective, none negative, with the sum 1"])
    rows.append(["rank", f"{config.lora_dim} + {config.pref_dim * config.pref_rank}"])
    layers, share = f"linear layers with {config.lora_module_name!r} in their name", facts.share
    if share is not None:
        layers += f": {100 * share:.0f} % of the weights of the model's layers"
    rows.append(["adapted layers", layers])
    template = TEMPLATES.get(config.chat_template, "a chat template, kept in adapter_config.json")
    rows.append(["prompt template", template])
    yield Table("", ["", ""], rows).markdown()


def measured(facts: Facts) -> Iterator[str]:
    """The front as a picture and as tables."""
    yield "## Its front"
    if facts.front is None:
        yield "It was not measured."
        return
    front = facts.front
    axes = ", ".join(map(markdown_text, front.axis_labels))
    yield f"![The front]({PICTURE_FILE})"
    yield f"{axes}; more is better, ± one standard error. KL: to the base model, nats per response."
    head, *rows = front_rows(front)
    yield Table("", head, rows).markdown()
    table = indicators_table([front])
    yield f"{table.title}:"
    yield table.markdown()


def training(facts: Facts) -> Iterator[str]:
    """Program, flags, steps, seconds, versions."""
    yield "## How it was trained"
    record = facts.record
    if not record:
        yield "That was not recorded."
        return
    seconds, processes = record.get("training_seconds"), record.get("processes")
    parts = [
        f"{facts.steps} steps" if facts.steps is not None else "",
        f"{seconds:.0f} s" if isinstance(seconds, int | float) else "",
        f"{processes} processes" if isinstance(processes, int) and processes > 1 else "",
    ]
    told = ", ".join(part for part in parts if part)
    yield f"{told[:1].upper()}{told[1:]}. The command:" if told else "The command:"
    program = printable_line(record.get("program", ""))
    yield block(" \\\n  ".join([program, *facts.flags]), "sh")
    yield "Flags that are not there had their defaults."
    versions = record.get("versions")
    if isinstance(versions, Mapping):
        listed = ", ".join(markdown_text(f"{name} {version}") for name, version in versions.items())
        yield f"Versions: {listed}."


def usage(facts: Facts) -> Iterator[str]:
    """The adapter in four engines."""
    name = shlex.quote(printable_line(facts.name))
    yield "## How to use it"
    if facts.base_model is None:
        yield f"`{UNKNOWN_BASE}` stands for the base model, which every program takes as a flag."
    if facts.repo:
        yield block(f"hf download {shlex.quote(facts.repo)} --local-dir {name}", "sh")
    if not facts.objectives:
        yield from _without_preference(facts)
        return
    m = len(facts.objectives)
    weights = [1.0] if m == 1 else [0.7, 0.3, *[0.0] * (m - 2)]
    preference = format_preference(torch.tensor(weights), facts.config.objectives)
    yield from _this_package(facts, name, preference)
    named = dict(zip(facts.objectives, weights, strict=True))
    yield from _other_engines(facts, name, preference, named)


def _without_preference(facts: Facts) -> Iterator[str]:
    base = json.dumps(facts.base_model or UNKNOWN_BASE)
    code = f"""from safe_rlhf_panacea.adapter import load_adapter
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({base})
load_adapter(model, {_quoted(facts.name)})"""
    yield block(code, "python")
    yield (
        "For PEFT, llama.cpp, vLLM and plain transformers: `panacea export` with "
        "`--format peft`, `gguf`, `vllm` or `merged`."
    )


def _quoted(text: str) -> str:
    """A text in Python."""
    return json.dumps(printable_line(text), ensure_ascii=False)


def _this_package(facts: Facts, name: str, preference: str) -> Iterator[str]:
    base = "" if facts.base_model else f" --base_model {UNKNOWN_BASE}"
    at = shlex.quote(preference)
    given = "" if facts.base_model else f', base_model="{UNKNOWN_BASE}"'
    yield f"### {LIBRARY}"
    words = f'panacea respond --adapter {name}{base} --preference {at} "How do I pick a door lock?"'
    yield block(words, "sh")
    code = f"""from safe_rlhf_panacea.respond import PanaceaModel

model = PanaceaModel.load({_quoted(facts.name)}{given})
print(model.respond("How do I pick a door lock?", {_quoted(preference)}))"""
    yield block(code, "python")


def _other_engines(
    facts: Facts, name: str, preference: str, named: Mapping[str, float]
) -> Iterator[str]:
    base = facts.base_model or UNKNOWN_BASE
    flag = "" if facts.base_model else f" --base_model {UNKNOWN_BASE}"
    export = f"panacea export --adapter {name}{flag} --format"
    yield "### PEFT"
    yield block(f"{export} peft-parts --output_dir parts", "sh")
    code = f"""from safe_rlhf_panacea.export import load_parts, set_preference
from transformers import AutoModelForCausalLM

model = load_parts(AutoModelForCausalLM.from_pretrained({json.dumps(base)}), "parts")
set_preference(model, {json.dumps(named, ensure_ascii=False)})"""
    yield block(code, "python")
    yield "### llama.cpp"
    loras = "".join(f" --lora {shlex.quote(f'gguf/{part}.gguf')}" for part in ("shared", *named))
    scales = [{"id": i, "scale": weight} for i, weight in enumerate((1, *named.values()))]
    request = {"prompt": "…", "cache_prompt": False, "lora": scales}
    body = shlex.quote(json.dumps(request, ensure_ascii=False))
    code = f"""{export} gguf --output_dir gguf
llama-server -m base.gguf --lora-init-without-apply{loras}
curl localhost:8080/completion -d {body}"""
    yield block(code, "sh")
    yield "### vLLM"
    folder = json.dumps({"name": "panacea", "path": f"vllm/{preference}"}, ensure_ascii=False)
    code = f"""{export} vllm --preference {shlex.quote(preference)} --output_dir vllm
vllm serve {shlex.quote(base)} --enable-lora --max-lora-rank {_vllm_rank(facts)} \\
  --lora-modules {shlex.quote(folder)}"""
    yield block(code, "sh")


def _vllm_rank(facts: Facts) -> int:
    from safe_rlhf_panacea.export.vllm_resolver import padded_rank

    return padded_rank(facts.config.rank)


def card_text(facts: Facts) -> str:
    """The whole card."""
    sections = [*about(facts), *measured(facts), *training(facts), *usage(facts)]
    made = f"*Written by {LIBRARY} {safe_rlhf_panacea.__version__}.*"
    return "\n\n".join(["\n".join(front_matter(facts)), *sections, made]) + "\n"
