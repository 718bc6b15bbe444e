"""A page of a report that needs nothing else, and files that appear whole."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#111827;--dim:#6b7280;--line:#e5e7eb;--page:#fff;--best:#dcfce7}
@media(prefers-color-scheme:dark){:root{--ink:#e5e7eb;--dim:#9ca3af;--line:#374151;--page:#111827;--best:#14532d}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);margin:0 auto;max-width:72rem;
padding:1rem}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}p.dim,figcaption{color:var(--dim)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child{text-align:left;position:sticky;left:0;background:var(--page)}
tr.best td{background:var(--best)}
.scroll:focus-visible{outline:2px solid #2563eb}
figure{margin:0}figure svg{width:100%;min-width:38rem;height:auto;background:#fff;border-radius:.4rem}
a:focus-visible,summary:focus-visible{outline:2px solid #2563eb}pre{overflow-x:auto;font-size:.85rem}
@media(max-width:40rem){thead th:first-child,tbody th{max-width:9rem;white-space:normal}}
@media print{body{max-width:none;font-size:10pt;padding:0}.scroll{overflow:visible}
figure svg{min-width:0}th,td{padding:.2rem .35rem;font-size:8pt}
h2{break-after:avoid}figure,tr{break-inside:avoid}details{display:none}}
"""


def page(title: str, body: str) -> str:
    """A page of a report around its body."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"{body}</main></body></html>\n"
    )


def write_files(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files by name into a folder; returns them.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in contents.items():
        # A reader never sees half of a file, also when the disk is full.
        fresh = folder / f".{name}.new"
        try:
            fresh.write_bytes(content)
            fresh.replace(folder / name)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        written.append(folder / name)
    return written
