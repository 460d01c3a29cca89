"""Self-contained pages: no scripts, no network, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:62rem;margin:2rem auto;padding:0 1rem}
section{margin:3rem 0;border-top:1px solid #ddd;break-inside:avoid}
img{max-width:100%;height:auto}
table{border-collapse:collapse;font-size:.85rem}
.wide{overflow-x:auto}
td,th{border:1px solid #ddd;padding:.25rem .5rem;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td:first-child{white-space:nowrap}
pre{background:#f5f5f5;padding:.7rem;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem}
.says{color:#555}
"""


def image(png: bytes, alternative: str) -> str:
    """A picture, inside the page."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{escape(alternative, quote=True)}" src="data:image/png;base64,{data}">'


def page(
    title: str, parts: Sequence[str], *, style: str = "", refresh_seconds: int | None = None
) -> str:
    """A whole page.

    Args:
        title: in the browser's tab and above the page.
        parts: HTML, one below the other.
        style: CSS beside that of all pages.
        refresh_seconds: let the browser read the page again and again.
    """
    again = ""
    if refresh_seconds is not None:
        again = f'<meta http-equiv="refresh" content="{refresh_seconds}">'
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8">{again}',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            *parts,
            "</body></html>\n",
        ]
    )
