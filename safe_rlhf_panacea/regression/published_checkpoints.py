"""Where the published score models are, and what to fetch where they are not."""

from __future__ import annotations

import functools
import gc
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.base.models import AutoModelForScore, load_pretrained_models
from safe_rlhf_panacea.regression.checks import CannotRun
from safe_rlhf_panacea.regression.suites import Options
from safe_rlhf_panacea.regression.tiny_base import DTYPES

HUB_TIMEOUT = 10.0  # seconds


def locate(values: Mapping[str, Any], options: Options) -> tuple[str | Path, dict[str, Any]]:
    """A checkpoint's folder, or its name on the hub with the revision to take.

    Raises:
        CannotRun: it is neither in ``options.local_dir`` nor to be had; with what to download.
    """
    hub, revision = values["hub"], values["revision"]
    if options.local_dir is not None:
        folder = options.local_dir / _last_part(hub)
        if folder.is_dir():
            return folder, {}
    elif _is_on_hub(hub, revision):
        return hub, {"revision": revision} if revision else {}
    size = f"about {values['gigabytes']} GB"
    raise CannotRun(missing(hub, revision, size, options))


def missing(hub: str, revision: str | None, size: str, options: Options) -> str:
    """What is missing, and how to get it."""
    tried = "the hub has it not, or cannot be reached"
    if options.local_dir is not None:
        tried = f"not in {options.local_dir}"
    folder = (options.local_dir or Path("DIR")) / _last_part(hub)
    flag = "" if options.local_dir else " and give --local_dir DIR"
    at = f"revision {revision}" if revision else "no revision is known"
    return f"{_last_part(hub)}: {tried}; download {hub} ({at}; {size}) into {folder}{flag}"


def _last_part(hub: str) -> str:
    return hub.rpartition("/")[2]


def _is_on_hub(hub: str, revision: str | None) -> bool:
    from huggingface_hub import hf_hub_download

    cached_only = not _hub_answers()
    try:
        hf_hub_download(hub, "config.json", revision=revision, local_files_only=cached_only)
    except Exception:  # no network, no such name, not allowed: it is not to be had
        return False
    return True


@functools.lru_cache(maxsize=1)
def _hub_answers() -> bool:
    """Asked once: the hub's client would try each checkpoint again for half a minute."""
    from huggingface_hub import constants

    if urllib.request.getproxies():
        return True  # whether the proxy reaches it is not ours to say
    where = urllib.parse.urlparse(constants.ENDPOINT)
    port = where.port or (443 if where.scheme == "https" else 80)
    try:
        socket.create_connection((where.hostname, port), timeout=HUB_TIMEOUT).close()
    except OSError:
        return False
    return True


@contextmanager
def loaded(values: Mapping[str, Any], options: Options) -> Iterator[tuple[Any, Any]]:
    """The model in its role, on the GPU if there is one, and its tokenizer.

    The role is the reference's: a published configuration may call a cost model a reward model.

    Raises:
        CannotRun: it is not to be had.
        UserError: the checkpoint is damaged, or of something else.
    """
    place, revision = locate(values, options)
    model, tokenizer = load_pretrained_models(
        place,
        auto_model_type=AutoModelForScore,
        dtype=DTYPES[options.dtype],
        auto_model_kwargs={
            "score_type": values["role"],
            "do_normalize": values["do_normalize"],
            **revision,
        },
        auto_tokenizer_kwargs=revision,
    )
    try:
        yield model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer
    finally:
        del model  # before the next one is loaded: two of 7B would not fit
        gc.collect()
        torch.cuda.empty_cache()
