"""A path at which nothing lies, given as a model or as data."""

from __future__ import annotations

import time
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

from safe_rlhf_panacea import hub
from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.base import load_pretrained_models
from safe_rlhf_panacea.data.specs import open_path
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models.loading import read_model_config
from safe_rlhf_panacea.models.pretrained import load_tokenizer
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.rewards.loading import RewardLoading
from tests.tiny import tiny_llama


def adapter_on(base: str) -> Path:
    """An adapter of a model that lies elsewhere."""
    config = AdapterConfig(lora_dim=2, objectives=("a", "b"), base_model=base)
    inject_adapter(tiny_llama(layers=1), config).save(Path("adapter"))
    return Path("adapter")


LOAD = {
    "model": load_pretrained_models,
    "tokenizer": lambda name: load_tokenizer(name, 64, "right"),
    "configuration": read_model_config,
    "reward model": RewardLoading(64).is_classifier,
    "base of an adapter": lambda name: PanaceaModel.load(adapter_on(name)),
    "data": open_path,
}


@pytest.fixture
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The hub does not answer, and nobody waits for it; returns how often it is asked."""
    asked: list[object] = []

    class Session:
        def head(self, *args: object, **kwargs: object) -> None:
            asked.append(args)
            raise ConnectionError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    hub.prepare_hub.cache_clear()
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it is asked again"))
    yield asked
    hub.prepare_hub.cache_clear()


@pytest.mark.parametrize("kind", LOAD)
def test_a_hub_that_does_not_answer_is_asked_once(kind: str, unreachable: list[object]) -> None:
    wanted = "no such f" if kind != "data" else "cannot be read as a file, a folder or a data set"
    for _ in range(2):
        with pytest.raises(UserError, match=f"^nobody/nothing: {wanted}"):
            LOAD[kind]("nobody/nothing")
    assert len(unreachable) == 1


@pytest.mark.parametrize("kind", LOAD)
@pytest.mark.parametrize("name", ["runs/nothing", "my models", "runs/"])
def test_a_path_in_a_folder_that_is_here_is_no_name(
    kind: str, name: str, unreachable: list[object]
) -> None:
    Path("runs").mkdir()
    told = "no such f"
    if name == "runs/":
        wanted = {"data": "cannot be read as a data set", "tokenizer": "holds no tokenizer"}
        told = wanted.get(kind, "holds no model|no configuration could be loaded")
    with pytest.raises(UserError, match=f"{name.rstrip('/')}/?:? ({told})"):
        LOAD[kind](name)
    assert unreachable == []


def test_why_a_name_is_read_as_a_path_is_said_only_then(unreachable: list[object]) -> None:
    Path("runs").mkdir()
    with pytest.raises(UserError, match=r"wanted \(runs is a folder here, so this is read as a p"):
        load_pretrained_models("runs/nothing")
    with pytest.raises(UserError, match=r"a model's folder or a hub name is wanted$"):
        load_pretrained_models("./nothing/at/all")
