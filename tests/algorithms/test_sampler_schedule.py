"""Parameters of λ's sampler that change over a run."""

from __future__ import annotations

import shlex

import pytest

from tests.algorithms.helpers import dpo_trainer

VERTICES = shlex.split(
    "--preference_sampler vertices --vertex_probability 1 --vertex_probability_end 0"
)
DIRICHLET = shlex.split(
    "--preference_sampler dirichlet --dirichlet_alpha 8 --dirichlet_alpha_end 4"
)


@pytest.mark.parametrize(
    ("flags", "name", "expected"),
    [(VERTICES, "vertex_probability", [1, 0.75, 0.5, 0.25]), (DIRICHLET, "alpha", [8, 7, 6, 5])],
)
def test_it_goes_from_one_to_the_other(flags, name, expected, dpo_flags, monkeypatch):
    trainer = dpo_trainer([*dpo_flags, *flags, "--max_steps", "4"])
    sampler = trainer.panacea.source.sampler
    draw, found, drawn = sampler.sample, [], []

    def noting(*args):
        found.append(getattr(sampler, name))
        drawn.append(draw(*args))
        return drawn[-1]

    monkeypatch.setattr(sampler, "sample", noting)
    trainer.train()
    assert found == expected
    if name == "vertex_probability":
        assert drawn[0].max() == 1
