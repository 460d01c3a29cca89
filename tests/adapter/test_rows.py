"""Some rows of a batch, each at its own λ."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from safe_rlhf_panacea.adapter import AdapterConfig, AdapterError, have_one_preference, taking_rows
from tests.tiny import adapt


@pytest.fixture
def adapted():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    return model, adapt(model, AdapterConfig(2, lora_scaling=2.0, lora_module_name=""), std=1.0)


def test_rows_in_another_order_give_the_whole_batchs_rows(adapted):
    model, adapter = adapted
    x, rows = torch.randn(4, 3, 5), torch.tensor([3, 0])
    with adapter.at(torch.rand(4, 2)):
        whole = model(x)
        with taking_rows(model, rows, batch=4):
            part = model(x[rows])
        torch.testing.assert_close(part, whole[rows])
        torch.testing.assert_close(model(x), whole)  # the batch's λ holds again


def test_where_each_lambda_is_repeated_the_rows_are_those_of_the_repeated_batch(adapted):
    model, adapter = adapted
    x, rows = torch.randn(4, 5), torch.tensor([1, 3])
    with adapter.at(torch.rand(2, 2)), adapter.state.during(expands=True):
        whole = model(x)
        with taking_rows(model, rows, batch=4):
            torch.testing.assert_close(model(x[rows]), whole[rows])


def test_one_lambda_for_all_rows_stays(adapted):
    model, adapter = adapted
    with adapter.at(torch.tensor([0.3, 0.7])), taking_rows(model, torch.tensor([1]), batch=4):
        assert adapter.preference.tolist() == pytest.approx([0.3, 0.7])


def test_a_batch_that_does_not_match_is_refused(adapted):
    model, adapter = adapted
    refused = pytest.raises(AdapterError, match="3 rows")
    with adapter.at(torch.rand(2, 2)), refused, taking_rows(model, torch.tensor([0]), batch=3):
        pass


@pytest.mark.parametrize(
    ("first", "batch", "copies", "expected"),
    [
        ([0.1, 0.1, 0.4, 0.4], 4, 2, True),
        ([0.1, 0.1, 0.4, 0.4], 4, 4, False),
        ([0.1, 0.4, 0.4, 0.1], 4, 2, False),
        ([0.1, 0.4], 4, 2, True),  # each repeated
        ([0.1, 0.4], 4, 4, False),
        ([0.1, 0.4], 2, 1, True),
    ],
)
def test_whether_rows_side_by_side_have_one_lambda(adapted, first, batch, copies, expected):
    model, adapter = adapted
    preference = torch.tensor([[value, 1 - value] for value in first])
    with adapter.at(preference):
        assert have_one_preference(model, batch, copies) == expected
    with adapter.at(preference[0]):
        assert have_one_preference(model, batch, copies)
