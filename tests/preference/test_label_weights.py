"""λ drawn for the labels of a row: every expectation stays, the noise falls."""

from __future__ import annotations

from math import lgamma

import pytest
import torch

from safe_rlhf_panacea.aggregation import aggregate_losses
from safe_rlhf_panacea.preference import PreferenceError
from safe_rlhf_panacea.preference_sampler import PreferenceSampler, label_weights

MANY = 200_000
KINDS = {
    "uniform": {},
    "dirichlet": {"alpha": 0.4},
    "vertices": {"vertex_probability": 0.4},
    "stratified": {},
}


def moment(powers, alpha):
    """E Π λ_i^a_i of a symmetric Dirichlet, from its gamma functions."""
    total = alpha * len(powers)
    value = lgamma(total) - lgamma(total + sum(powers))
    value += sum(lgamma(alpha + power) - lgamma(alpha) for power in powers)
    return torch.tensor(value, dtype=torch.float64).exp().item()


def expected(i, j, m, kind, alpha=1.0, vertex_probability=0.0):
    """E λ_i λ_j of a sampler's p."""
    powers = [0] * m
    powers[i] += 1
    powers[j] += 1
    at_vertices = 1 / m if i == j else 0.0
    return vertex_probability * at_vertices + (1 - vertex_probability) * moment(powers, alpha)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", [(1, 0), (0, 1), (1, 1), (0, 1, 0), (1, 0, 1), (0, 0, 1, 1)])
def test_weighted_means_are_those_of_the_plain_sampler(kind, labels):
    m = len(labels)
    if kind == "stratified" and m != 2:
        return
    labelled = torch.tensor([labels], dtype=torch.bool).expand(MANY, -1)
    sampler = PreferenceSampler(m, kind, scope="sample", seed=sum(labels) + 7 * m, **KINDS[kind])
    drawn = sampler.sample(MANY, labelled).double()
    weights = label_weights(drawn, labelled)
    for i in (i for i, label in enumerate(labels) if label):
        for j in range(m):
            values = weights[:, i] * drawn[:, j]
            error = values.std().item() / MANY**0.5
            wanted = expected(i, j, m, kind, **KINDS[kind])
            assert values.mean().item() == pytest.approx(wanted, abs=4.5 * error), (i, j)


def test_draws_have_the_tilted_density():
    """With one of two labels λ_1 has the density 2 λ_1: quantiles √q, mean 2/3."""
    labelled = torch.tensor([[True, False]]).expand(MANY, -1)
    for kind in ("uniform", "stratified"):
        drawn = PreferenceSampler(2, kind, scope="sample").sample(MANY, labelled)[:, 0].double()
        levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
        found = torch.quantile(drawn, levels)
        torch.testing.assert_close(found, levels.sqrt(), rtol=0, atol=0.005)
    vertices = PreferenceSampler(2, "vertices", scope="sample", vertex_probability=0.5)
    drawn = vertices.sample(MANY, labelled)
    assert (drawn[:, 0] == 1).double().mean().item() == pytest.approx(0.5, abs=0.006)
    assert not (drawn[:, 1] == 1).any()


def test_rows_with_all_labels_or_none_are_drawn_and_weighted_as_before():
    labelled = torch.tensor([[True, True], [False, False]])
    sampler = PreferenceSampler(2, "dirichlet", alpha=3.0, scope="sample", seed=3)
    drawn = torch.cat([sampler.sample(2, labelled) for _ in range(20_000)]).double()
    # A symmetric Dirichlet's variance: 1 / (4 (2 α + 1)).
    assert drawn[:, 0].var().item() == pytest.approx(1 / 28, rel=0.05)
    assert torch.equal(label_weights(drawn[:2], labelled), drawn[:2])


def test_every_rank_takes_its_rows_of_one_stream():
    labelled = torch.tensor([[True, False, True], [False, True, False]] * 3)
    options = {"alpha": 0.7, "scope": "sample", "seed": 5}
    whole = PreferenceSampler(3, "dirichlet", **options).sample(6, labelled)
    for rank in range(3):
        own = slice(2 * rank, 2 * rank + 2)
        sampler = PreferenceSampler(3, "dirichlet", rank=rank, world_size=3, **options)
        assert torch.equal(sampler.sample(2, labelled[own]), whole[own])


def test_loss_and_gradient_keep_their_expectation_and_lose_noise():
    """A model that λ moves linearly, float64, opposed objectives, a label or two on each row."""
    generator = torch.Generator().manual_seed(0)
    rows, runs = 8, 3000
    inputs = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[1, 0], [0, -1]] * 3 + [[1, 1], [1, -1]], dtype=torch.float64)
    start = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    labelled = labels.ne(0)

    def gradients(for_labels):
        sampler = PreferenceSampler(2, "vertices", vertex_probability=0.3, scope="sample", seed=1)
        found = []
        for _ in range(runs):
            drawn = sampler.sample(rows, labelled if for_labels else None).double()
            weights = label_weights(drawn, labelled) if for_labels else drawn
            theta = start.clone().requires_grad_()
            margins = (inputs * (theta[0] + drawn @ theta[1:])).sum(dim=-1, keepdim=True)
            losses = torch.nn.functional.softplus(-labels * margins)
            loss = aggregate_losses(losses, labelled, weights, "ls", "sample")
            loss.backward()
            found.append(torch.cat([loss.detach().view(1), theta.grad.flatten()]))
        return torch.stack(found)

    plain, drawn = gradients(False), gradients(True)
    errors = ((plain.var(dim=0) + drawn.var(dim=0)) / runs).sqrt()
    assert ((plain.mean(dim=0) - drawn.mean(dim=0)).abs() < 4.5 * errors).all()
    assert drawn.var(dim=0)[1:].sum() < 0.6 * plain.var(dim=0)[1:].sum()


@pytest.mark.parametrize(
    ("scope", "shape", "message"),
    [("batch", (4, 2), "scope sample only"), ("sample", (3, 2), r"must be \(4, 2\)")],
)
def test_labels_that_do_not_fit_are_refused(scope, shape, message):
    sampler = PreferenceSampler(2, scope=scope)
    with pytest.raises(PreferenceError, match=message):
        sampler.sample(4, torch.ones(shape, dtype=torch.bool))
