"""Names on the Hugging Face hub, told from paths at which nothing lies."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
SECONDS = 10.0  # that the hub has to answer


def may_be_hub_name(text: str) -> bool:
    """Whether a text that is no path may be ``name`` or ``owner/name``.

    Not where a folder ``owner`` lies here: then it is meant as a path in that folder.
    """
    folder, slash, _ = text.partition("/")
    return HUB_NAME.fullmatch(text) is not None and not (slash and Path(folder).is_dir())


@lru_cache(maxsize=1)
def prepare_hub() -> bool:
    """Whether the hub answers, and may be asked; it is asked once in a process.

    If not, only what was fetched before is looked at from now on: every file would be asked for
    six times, over half a minute or more.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if not constants.HF_HUB_OFFLINE:
        try:
            get_session().head(constants.ENDPOINT, timeout=SECONDS)
        except Exception:  # of whichever library the session is
            constants.HF_HUB_OFFLINE = True
    return not constants.HF_HUB_OFFLINE
