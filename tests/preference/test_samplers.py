from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.preference import PreferenceError, check_preference
from safe_rlhf_panacea.preference_sampler import PreferenceSampler

MANY = 40_000


def draw(pref_dim, kind, rows=MANY, **options):
    drawn = PreferenceSampler(pref_dim, kind, scope="sample", **options).sample(rows)
    assert drawn.dtype == torch.float32
    check_preference(drawn, pref_dim, atol=1e-5)
    return drawn.double()


def assert_moments(drawn, variance):
    """Mean 1/m and the given variance of every entry, within five standard errors of the mean."""
    rows, pref_dim = drawn.shape
    error = (variance / rows) ** 0.5
    mean = torch.full((pref_dim,), 1 / pref_dim, dtype=torch.float64)
    torch.testing.assert_close(drawn.mean(dim=0), mean, rtol=0, atol=5 * error)
    wanted = torch.full((pref_dim,), variance, dtype=torch.float64)
    torch.testing.assert_close(drawn.var(dim=0), wanted, rtol=0.04, atol=0)


@pytest.mark.parametrize("pref_dim", [2, 3, 4])
def test_uniform_moments(pref_dim):
    variance = (pref_dim - 1) / (pref_dim**2 * (pref_dim + 1))
    assert_moments(draw(pref_dim, "uniform", seed=1), variance)


def test_uniform_covariance_and_quartiles():
    three = draw(3, "uniform", seed=2)
    covariance = torch.cov(three.T)
    assert covariance[0, 1].item() == pytest.approx(-1 / 36, rel=0.05)  # -1 / (m² (m + 1))
    two = draw(2, "uniform", seed=2)
    quartiles = torch.quantile(two[:, 0], torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    assert quartiles.tolist() == pytest.approx([0.25, 0.5, 0.75], abs=0.012)


@pytest.mark.parametrize(("pref_dim", "alpha"), [(2, 0.5), (3, 2.0), (4, 5.0)])
def test_dirichlet_moments(pref_dim, alpha):
    variance = (pref_dim - 1) / (pref_dim**2 * (pref_dim * alpha + 1))
    assert_moments(draw(pref_dim, "dirichlet", alpha=alpha, seed=3), variance)


def test_a_tiny_alpha_still_gives_points_of_the_simplex():
    drawn = draw(3, "dirichlet", alpha=1e-3, rows=2000, seed=4)
    # All gammas may be below the smallest double; the centre must not come of that.
    assert drawn.amax(dim=-1).mean().item() > 0.99
    assert drawn.mean(dim=0).tolist() == pytest.approx([1 / 3] * 3, abs=0.053)


def test_vertices_have_their_share_and_the_rest_is_uniform():
    drawn = draw(3, "vertices", vertex_probability=0.3, seed=5)
    at_vertex = drawn.amax(dim=-1) == 1
    assert at_vertex.double().mean().item() == pytest.approx(0.3, abs=0.0115)
    corners = drawn[at_vertex].mean(dim=0)
    assert corners.tolist() == pytest.approx([1 / 3] * 3, abs=0.022)
    assert set(drawn[at_vertex].flatten().tolist()) == {0.0, 1.0}
    assert_moments(drawn[~at_vertex], 1 / 18)


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_stratified_has_one_draw_in_every_stratum(rows):
    drawn = draw(2, "stratified", rows=rows, seed=7)
    strata = (drawn[:, 0] * rows).floor().long()
    assert sorted(strata.tolist()) == list(range(rows))


def test_stratified_order_is_random_and_its_draws_uniform():
    sampler = PreferenceSampler(2, "stratified", scope="sample", seed=8)
    batches = torch.stack([sampler.sample(8)[:, 0] for _ in range(2000)]).double()
    # Every position of the batch is uniform by itself, not tied to one stratum.
    assert batches.mean(dim=0).tolist() == pytest.approx([0.5] * 8, abs=0.033)
    assert batches.var(dim=0).tolist() == pytest.approx([1 / 12] * 8, rel=0.1)


def test_shapes_of_the_scopes_and_the_seed():
    shared, again, other = (PreferenceSampler(3, seed=seed).sample(5) for seed in (1, 1, 2))
    assert shared.shape == (5, 3) and len(shared.unique(dim=0)) == 1
    assert torch.equal(shared, again) and not torch.equal(shared, other)
    assert PreferenceSampler(3, scope="sample").sample(5).shape == (5, 3)
    assert PreferenceSampler(3, scope="sample").sample().shape == (1, 3)


@pytest.mark.parametrize("kind", ["uniform", "dirichlet", "vertices"])
def test_scope_batch_agrees_on_all_ranks_whatever_their_batches(kind):
    ranks = [
        PreferenceSampler(2, kind, vertex_probability=0.5, seed=10, rank=rank, world_size=4)
        for rank in range(4)
    ]
    steps = [[sampler.sample(rank + 1) for rank, sampler in enumerate(ranks)] for _ in range(5)]
    for step in steps:
        assert all(torch.equal(step[0].expand_as(other), other) for other in step)
    if kind != "vertices":  # two vertices may well be the same
        assert len({tuple(step[0][0].tolist()) for step in steps}) == 5


@pytest.mark.parametrize("kind", ["uniform", "dirichlet", "stratified"])
def test_scope_sample_gives_ranks_disjoint_slices_of_one_stream(kind):
    alone = PreferenceSampler(2, kind, scope="sample", seed=11)
    ranks = [
        PreferenceSampler(2, kind, scope="sample", seed=11, rank=rank, world_size=3)
        for rank in range(3)
    ]
    for _ in range(3):
        together = torch.cat([sampler.sample(4) for sampler in ranks])
        assert torch.equal(together, alone.sample(12))
        assert len(together.unique(dim=0)) == 12


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    draw(2, "stratified", rows=4)
    draw(2, "dirichlet", rows=4)
    draw(2, "vertices", rows=4, vertex_probability=0.5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", ["uniform", "dirichlet", "vertices", "stratified"])
def test_a_restored_state_continues_the_stream(kind, tmp_path):
    options = {"scope": "sample", "vertex_probability": 0.5}
    sampler = PreferenceSampler(2, kind, seed=12, **options)
    sampler.sample(3)
    torch.save(sampler.state_dict(), tmp_path / "state.pt")
    expected = [sampler.sample(3) for _ in range(2)]
    restored = PreferenceSampler(2, kind, seed=99, **options)
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert all(torch.equal(restored.sample(3), wanted) for wanted in expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"kind": "normal"},
            "unknown sampler 'normal': choose one of uniform, dirichlet, vertices, stratified",
        ),
        ({"scope": "epoch"}, "unknown scope 'epoch': choose batch or sample"),
        ({"alpha": 0.0}, "alpha is 0: it must be positive"),
        ({"alpha": float("inf")}, "alpha is inf: it must be finite"),
        ({"alpha": float("nan")}, "alpha is nan: it must be positive"),
        ({"kind": "vertices"}, "the vertices sampler needs a vertex_probability, such as 0.3"),
        ({"vertex_probability": 1.5}, "vertex_probability 1.5 is not in 0..1"),
        ({"kind": "stratified"}, "the stratified sampler is for two objectives and scope sample"),
        ({"pref_dim": 0}, "a sampler needs at least one objective, not 0"),
        ({"rank": 2, "world_size": 2}, "rank 2 is not one of 2 processes"),
    ],
)
def test_wrong_parameters_are_refused(options, said):
    with pytest.raises(PreferenceError) as caught:
        PreferenceSampler(**{"pref_dim": 2, **options})
    assert str(caught.value) == said


def test_an_empty_batch_is_refused():
    with pytest.raises(PreferenceError, match="a batch of 0: at least one vector must be drawn"):
        PreferenceSampler(2).sample(0)


@pytest.mark.parametrize("state", [{}, None, {"generator": 3}, {"generator": torch.zeros(3)}])
def test_what_is_no_state_is_refused_in_one_line(state):
    sampler, untouched = PreferenceSampler(2), PreferenceSampler(2)
    with pytest.raises(PreferenceError, match=r"^no state of a preference sampler") as caught:
        sampler.load_state_dict(state)
    assert "\n" not in str(caught.value)
    assert torch.equal(sampler.sample(), untouched.sample())
