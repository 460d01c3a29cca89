"""Which rows a run takes, and the order in which its processes visit them."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader

from safe_rlhf_panacea.data import PromptOnlyDataset, ResumableSampler
from safe_rlhf_panacea.data.specs import read_specs
from safe_rlhf_panacea.data.tokenized import select_rows
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer


def test_an_epoch_visits_everything_once_in_an_order_of_its_own():
    sampler = ResumableSampler(10, seed=3)
    first = list(sampler)
    assert sorted(first) == list(range(10))
    assert list(sampler) == first  # same epoch, same order
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(second) == list(range(10))
    assert second != first
    # one seed's second epoch is not the next seed's first
    assert list(ResumableSampler(10, seed=4)) != second
    assert list(ResumableSampler(4, shuffle=False)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("rows", "world_size"), [(12, 3), (10, 3), (2, 5)])
def test_ranks_share_an_epoch(rows, world_size):
    shares = [
        list(ResumableSampler(rows, seed=1, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    per_rank = -(-rows // world_size)
    assert [len(share) for share in shares] == [per_rank] * world_size
    assert len(ResumableSampler(rows, world_size=world_size)) == per_rank
    visits = [index for share in shares for index in share]
    # filled up from the beginning: no row more than one visit ahead of another
    counts = [visits.count(index) for index in range(rows)]
    assert min(counts) > 0
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("batches", [0, 1, 3, 4])
def test_resumes_after_any_batch_of_a_loader(batches):
    def run(sampler, epoch):
        sampler.set_epoch(epoch)
        return [batch.tolist() for batch in DataLoader(range(10), batch_size=3, sampler=sampler)]

    sampler = ResumableSampler(10, seed=2)
    expected = [run(sampler, epoch) for epoch in (0, 1, 2)]

    stopped = ResumableSampler(10, seed=2)
    run(stopped, 0)
    stopped.set_epoch(1)
    loader = iter(DataLoader(range(10), batch_size=3, sampler=stopped))
    for _ in range(batches):
        next(loader)
    state = stopped.state_dict()
    assert (state["epoch"], state["position"]) == (1, min(3 * batches, 10))

    resumed = ResumableSampler(10, seed=2)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert len(resumed) == 10
    assert run(resumed, 1) == expected[1][batches:]
    assert resumed.state_dict()["position"] == 10  # a second stop counts from the epoch's start
    assert run(resumed, 1) == expected[1]  # resumed once, not for ever
    assert run(resumed, 2) == expected[2]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (ResumableSampler(11), "data set size is 11, this run's 10"),
        (ResumableSampler(10, seed=1), "seed is 1, this run's 0"),
        (ResumableSampler(10, world_size=2), "number of processes is 2, this run's 1"),
    ],
)
def test_foreign_states_are_refused(other, message):
    with pytest.raises(UserError, match=f"the checkpoint's {message}"):
        ResumableSampler(10).load_state_dict(other.state_dict())


def test_bad_arguments():
    with pytest.raises(UserError, match="an empty data set"):
        ResumableSampler(0)
    with pytest.raises(ValueError, match="rank 2 is not among 2 processes"):
        ResumableSampler(5, rank=2, world_size=2)


def test_proportions(write):
    path = write([{"prompt": str(i)} for i in range(20)])

    def take(proportion, seed):
        rows = select_rows(read_specs(f"prompts:{proportion}:{path}"), seed)
        return [row.sample["input"] for row in rows]

    everything = [str(i) for i in range(20)]
    half = take("0.5", seed=1)
    assert len(half) == len(set(half)) == 10
    assert set(half) < set(everything)
    assert take("1/2", seed=1) == half != take("0.5", seed=2)
    assert len(take("3/-1", seed=1)) == 3
    assert take("1", seed=1) == everything
    many = take("2.5", seed=1)
    assert sorted(many.count(text) for text in everything) == [2] * 10 + [3] * 10


def test_a_split_shares_tokens_but_no_row(write):
    path = write([{"prompt": "q" * (i + 1)} for i in range(10)])
    dataset = PromptOnlyDataset(f"prompts:1:{path}", tiny_tokenizer())

    def lengths(*split):
        return [
            [len(item["input_ids"]) - 13 for item in p] for p in dataset.split_train_test(*split)
        ]

    train, test = lengths(0.3)
    assert (len(train), len(test)) == (7, 3)
    assert sorted(train + test) == list(range(1, 11))
    assert lengths(0.3) == [train, test] != lengths(0.3, True, 7)
    assert lengths(0.2, False) == [list(range(1, 9)), [9, 10]]
    for ratio in (0.01, 0.99, 0.0, 1.5):
        with pytest.raises(UserError, match="both parts need at least one"):
            dataset.split_train_test(ratio)


@pytest.mark.parametrize("role", ["eos", "pad"])
def test_a_tokenizer_without_special_tokens(write, role):
    tokenizer = tiny_tokenizer()
    setattr(tokenizer, f"{role}_token", None)
    with pytest.raises(UserError, match=f"the tokenizer has no {role} token"):
        PromptOnlyDataset([f"prompts:1:{write([{'prompt': 'q'}])}"], tokenizer)
