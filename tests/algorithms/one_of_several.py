"""What one process of a distributed test does; run by ``test_processes.py`` under torchrun.

Trains, then gathers from all ranks the last λ and the adapter, and writes what it found.
"""

from __future__ import annotations

import itertools
import json
import os
import sys

import pytest
import torch
import torch.distributed as dist

from safe_rlhf_panacea import dashboard as writers
from safe_rlhf_panacea.algorithms.dpo.trainer import rows_of_pairs
from safe_rlhf_panacea.algorithms.grpo import trainer as grpo_module
from safe_rlhf_panacea.base import engine as engines
from safe_rlhf_panacea.base.losses import Pairs
from safe_rlhf_panacea.forward import log_probs
from tests.algorithms.helpers import dpo_trainer, grpo_trainer, ppo_trainer


def gather(tensor):
    """The tensor of every rank."""
    tensor = tensor.contiguous()
    copies = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(copies, tensor)
    return copies


def shared_labels(trainer):
    """Gradients of two unequal shares of an update's pairs, and of one process with all pairs.

    Tchebycheff's maximum of the objectives' means, and their sum.
    """
    trainer.model = model = trainer.model.module  # DeepSpeed's engine keeps its gradients back
    rank, parameters = dist.get_rank(), trainer.panacea.policy.parameters()
    generator = torch.Generator().manual_seed(3)  # the same adapter on both, and λ matters
    with torch.no_grad():
        for parameter in parameters:
            if parameter.dim() == 1:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    data = trainer.train_dataloader.dataset
    pairs = data.get_collator()([data[i] for i in range(16)])
    pairs["labels"][:6, 1] = pairs["labels"][12:, 0] = 0  # 8 and 4, 2 and 8 labels
    shares = [{k: v[rows] for k, v in pairs.items()} for rows in (slice(0, 8), slice(8, 16))]
    candidates = [i / 100 for i in range(10, 91, 2)]
    divided = next(c for c in candidates if len(set(local_maxima(trainer, shares, c))) > 1)
    (share,) = trainer.counted([shares[rank]])
    errors, picks = {"tche": [], "ls": []}, []
    for first, method in itertools.product((0.3, divided, 0.7), errors):
        trainer.panacea.method = method
        preference = torch.tensor([first, 1 - first])
        rows = preference.expand(8, -1)
        model.zero_grad()
        with trainer.panacea.at(rows, rows_of_pairs(rows)):
            loss = trainer.loss(**share)["loss"]
            loss.backward()
        values = [loss.detach(), *(p.grad for p in parameters)]
        own = torch.cat([v.flatten() for v in values])
        dist.all_reduce(own, op=dist.ReduceOp.AVG)

        model.zero_grad()
        weighted = preference * labelled_means(trainer, pairs, preference)
        whole = weighted.max() if method == "tche" else weighted.sum()
        whole.backward()
        picks.append(local_maxima(trainer, shares, first))
        values = [whole.detach(), *(p.grad for p in parameters)]
        expected = torch.cat([v.flatten() for v in values])
        error = (own - expected).abs().max() / expected[1:].abs().max()
        errors[method].append(error.item())
    return {"errors": errors, "picks": picks}


@torch.no_grad()
def local_maxima(trainer, shares, first):
    """The objective that is furthest behind in each share, at λ = (first, 1 - first)."""
    preference = torch.tensor([first, 1 - first])
    means = [preference * labelled_means(trainer, batch, preference) for batch in shares]
    return [mean.argmax().item() for mean in means]


def labelled_means(trainer, batch, preference):
    """-log σ(±Δ) at λ, averaged over the pairs that each objective labels, size = (m,)."""
    adapter, pairs = trainer.panacea.policy, Pairs.of(batch)
    with torch.no_grad(), adapter.disabled():
        reference = log_probs(trainer.model, *pairs).sum(dim=-1)
    adapter.set_preference(preference)
    ratios = log_probs(trainer.model, *pairs).sum(dim=-1) - reference
    better, worse = (trainer.scale_coeff * ratios).chunk(2)
    losses = torch.log1p(torch.exp(-batch["labels"] * (better - worse).unsqueeze(-1)))
    labelled = batch["labels"].ne(0)
    return torch.stack([losses[labelled[:, i], i].mean() for i in range(labelled.size(1))])


def shared_moments(trainer):
    """How far an update's responses and whitened advantages are from those of all rows."""
    trainer.args = trainer.args.with_(whiten_advantages=True)
    generator = torch.Generator().manual_seed(5)
    mask = torch.arange(8) < torch.tensor([[8], [5], [6], [3], [7], [4]])  # the fourth has none
    numbers = torch.randn(3, 6, 7, generator=generator)
    names = ("log_probs", "ref_log_probs", "reward_values")
    whole = dict(zip(names, numbers, strict=True))
    whole |= {"prompt": torch.zeros(6, 3), "attention_mask": mask}
    whole["reward"] = torch.randn(6, generator=generator)
    rows = (slice(0, 2), slice(2, 6))[dist.get_rank()]
    share = {name: values[rows] for name, values in whole.items()}
    (known,) = trainer.of_update([share])
    advantages = trainer._estimated(whole, whole["log_probs"])[1][mask[:, 3:]].double()
    expected = 2.5, advantages.mean().item(), advantages.var(unbiased=False).item()
    found = known["count"].item(), *(value.item() for value in known["moments"])
    return [abs(a - b) for a, b in zip(found, expected, strict=True)]


def shared_groups(trainer):
    """GRPO's gradients of two processes' groups, and those of one process with all groups."""
    rank, parameters = dist.get_rank(), trainer.panacea.policy.parameters()
    engine = trainer.actor_model
    generator = torch.Generator().manual_seed(3)  # the same adapter on both, and λ matters
    with torch.no_grad():
        for parameter in parameters:
            if parameter.dim() == 1:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    data = trainer.prompt_only_dataloader.dataset
    prompts = data.get_collator()([data[i] for i in range(4)])
    preference = torch.tensor([[0.3, 0.7]]).expand(4, -1)
    torch.manual_seed(0)
    with trainer.panacea.at(preference):
        sequences, mask = trainer.generate(prompts)
    ids = prompts["input_ids"].repeat_interleave(4, dim=0)

    def gradients(rows, count):
        trainer.actor_model = engine
        with trainer.panacea.at(preference[:count]), torch.no_grad():
            rollout = trainer.post_rollout(ids[rows], sequences[rows], mask[rows])
        (batch,) = trainer.of_update([rollout])
        trainer.actor_model = engine.module  # the engine keeps its gradients back
        trainer.actor_model.zero_grad()
        with trainer.panacea.at(batch["preference"]):
            now = trainer.log_probs(sequences[rows], mask[rows], ids.size(1) - 1)
            now = now[:, ids.size(1) - 1 :]
            loss = trainer.loss(batch, now, now.detach())
            loss.backward()
        values = torch.cat([loss.detach().view(1), *(p.grad.flatten() for p in parameters)])
        return values

    errors = []
    for advantage in ("normalize_then_sum", "sum_then_normalize"):
        trainer.args = trainer.args.with_(advantage=advantage)
        trainer.args = trainer.args.with_(equal_steps=advantage == "normalize_then_sum")
        shares = slice(0, 4), slice(4, 16)
        own = gradients(shares[rank], (1, 3)[rank])
        dist.all_reduce(own, op=dist.ReduceOp.AVG)
        with pytest.MonkeyPatch.context() as patch:  # one process
            patch.setattr(grpo_module, "all_reduce_sum", lambda total: total)
            patch.setattr(engines, "all_reduce_sum", lambda total: total)
            patch.setattr(engines, "get_world_size", lambda: 1)
            whole = gradients(slice(None), 4)
        errors.append(((own - whole).abs().max() / whole[1:].abs().max()).item())
    return errors


def main():
    """Train as ``dpo``, ``ppo`` or ``grpo`` with the given flags; report to the given file."""
    algorithm, report, *flags = sys.argv[1:]
    writers.render = lambda *_, **__: ""  # drawing takes longer than training here
    trainer = {"dpo": dpo_trainer, "ppo": ppo_trainer, "grpo": grpo_trainer}[algorithm](flags)
    drawn = []
    draw = trainer.panacea.source.draw
    trainer.panacea.source.draw = lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1]
    trainer.train()
    trainer.save()
    trainer.logger.close()
    preferences = gather(drawn[-1])
    noise = gather(torch.rand(1))
    flat = torch.cat([p.detach().float().flatten() for p in trainer.panacea.policy.parameters()])
    adapters = gather(flat)
    shared = {"dpo": shared_labels, "ppo": shared_moments, "grpo": shared_groups}[algorithm]
    shared = shared(trainer)
    if dist.get_rank() == 0:
        found = {
            "world_size": dist.get_world_size(),
            "preferences": [p.tolist() for p in preferences],
            "adapters_agree": all(torch.equal(adapters[0], other) for other in adapters),
            "noise": [n.item() for n in noise],
            "moved": flat.abs().max().item() > 0.1,
            "shared": shared,
        }
        with open(report, "w", encoding="utf-8") as file:
            json.dump(found, file)
    dist.barrier()
    # All is said. Torn down in order, gloo's threads abort a process now and then (seen once in
    # some hundred: "terminate called without an active exception").
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
