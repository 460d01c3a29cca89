"""The page for people, and what it needs to know."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.result import FRONT_FILE, FrontResult
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.records import Examples
from safe_rlhf_panacea.serving.rules import Rules

FOLDER = Path(__file__).with_name("page")
SCRIPTS = ("basics.js", "preference.js", "answers.js", "front.js", "start.js")
TOKENS = 128  # of an answer, unless the reader wants another number
TRAINING_FILE = "results.json"  # where a training with evaluations leaves its last front


def find_front(adapter: Path, folder: Path | None) -> dict[str, Any] | None:
    """The front of an adapter: a point's λ and objectives each.

    Args:
        adapter: its folder.
        folder: of an evaluation; None: look into the adapter's own.

    Raises:
        UserError: ``folder`` has none, or it is damaged.
    """
    if folder is not None or (adapter / FRONT_FILE).is_file():
        result = FrontResult.load(folder or adapter)
    else:
        try:
            path = adapter / TRAINING_FILE
            result = FrontResult.from_json(str(path), read_json(path))
        except UserError:
            return None
    shown = {"kind", "label", "objectives", "axis_labels", "base"}
    points = {"points": {"__all__": {"preference", "objectives"}}}
    return result.model_dump(mode="json", include={**dict.fromkeys(shown, True), **points})


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


class Page:
    """One document with its script and its style in it, the only ones that a browser may use.

    Attributes:
        html: the document.
        headers: what a browser may do with it.
        facts: what its script asks for first.
    """

    def __init__(
        self,
        rules: Rules,
        front: dict[str, Any] | None,
        max_new_tokens: int,
        max_length: int,
        examples: Examples | None = None,
    ) -> None:
        """Put the files together."""
        script = "\n".join(_read(name) for name in SCRIPTS)
        style = _read("style.css")
        self.html = (
            _read("index.html")
            .replace("<style></style>", f"<style>{style}</style>")
            .replace("<script></script>", f"<script>{script}</script>")
        )
        policy = {
            "default-src": "'none'",
            "script-src": _hash(script),
            "style-src": _hash(style),
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        text = "; ".join(f"{key} {value}" for key, value in policy.items())
        self.headers = {"Content-Security-Policy": text, "Cache-Control": "no-cache"}
        self.facts = {
            "model": rules.name,
            "objectives": list(rules.objectives),
            "preference": [round(value, 6) for value in rules.default.tolist()],
            "lower": list(rules.lower),
            "upper": list(rules.upper),
            "max_tokens": max_new_tokens,
            "tokens": min(max_new_tokens, max_length // 2, TOKENS),
            "front": front,
            "examples": asdict(examples or Examples()),
        }
