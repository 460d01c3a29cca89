"""Self-contained pages: no scripts, no network, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

STYLE = """
:root{color-scheme:light dark;--ink:#222;--ground:#fff;--soft:#555;--line:#ddd;--shade:#f5f5f5;
--more:#e3f0f8;--less:#fbe9dd}
@media (prefers-color-scheme:dark){:root{--ink:#e6e6e6;--ground:#16181b;--soft:#a8aeb6;
--line:#3d434b;--shade:#23272d;--more:#12374f;--less:#4d2c14}img{border-radius:6px}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground);max-width:62rem;
margin:1.5rem auto;padding:0 1rem}
h1{font-size:1.6rem;line-height:1.25;overflow-wrap:anywhere}
section{margin:2.5rem 0;border-top:1px solid var(--line);break-inside:avoid}
h1+section{margin-top:1rem;border-top:0}
img{max-width:100%;height:auto}
table{border-collapse:collapse;font-size:.85rem}
.wide{overflow-x:auto;margin:.5rem 0}
td,th{border:1px solid var(--line);padding:.25rem .5rem;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td:first-child{white-space:nowrap}
.answers td:nth-child(2){min-width:14rem}
summary{overflow-wrap:anywhere;cursor:pointer}
pre{background:var(--shade);padding:.7rem;white-space:pre-wrap;overflow-wrap:anywhere;
font-size:.8rem}
.says{color:var(--soft)}
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
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            *parts,
            "</body></html>\n",
        ]
    )
