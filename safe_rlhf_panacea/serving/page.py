"""The page for people, and what it needs to know."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.results import FRONT_FILE, checked, read_result
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.serving.rules import Rules

HTML = Path(__file__).with_name("page.html")
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
        result = read_result(folder or adapter)
    else:
        try:
            path = adapter / TRAINING_FILE
            result = checked(str(path), read_json(path))
        except UserError:
            return None
    points = [
        {"preference": point["preference"], "objectives": point["objectives"]}
        for point in result["front"]
    ]
    keys = ("kind", "label", "objectives", "axis_labels", "base")
    return {**{key: result[key] for key in keys}, "points": points}


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


class Page:
    """One file; its script and its style are the only ones that a browser may run.

    Attributes:
        html: the file.
        headers: what a browser may do with it.
        facts: what its script asks for first.
    """

    def __init__(self, rules: Rules, front: dict[str, Any] | None, max_new_tokens: int) -> None:
        """Read the file."""
        self.html = HTML.read_text(encoding="utf-8")
        script, style = (
            _hash(re.search(f"<{tag}>(.*?)</{tag}>", self.html, re.DOTALL)[1])
            for tag in ("script", "style")
        )
        policy = {
            "default-src": "'none'",
            "script-src": script,
            "style-src": style,
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
            "front": front,
        }
