"""Blocks as one self-contained HTML page: opens from disk, needs no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from fuseforget.report.blocks import Block, Code, Details, Heading, Paragraphs, Picture, Pictures, Table

__all__ = ["html_page", "render_html"]

STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{font:16px/1.55 system-ui,sans-serif;color:#1c2430;background:#fff;max-width:72rem;margin:2rem auto;padding:0 1.25rem}
h1{font-size:1.7rem;margin:0 0 .3rem}h2{font-size:1.2rem;margin:2.4rem 0 .5rem;border-top:1px solid #dde2e8;padding-top:1.2rem}
.lead{background:#f2f6fa;border-left:4px solid #0072B2;padding:.8rem 1rem;margin:1rem 0}
.warn{background:#fff6e5;border-left:4px solid #E69F00;padding:.6rem 1rem;margin:1rem 0}
.note{color:#55606e;font-size:.9rem;max-width:60rem}.lead p,.warn p{margin:.15rem 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:.32rem .6rem;text-align:left;border-bottom:1px solid #e6eaef;vertical-align:top}th{background:#f7f9fb}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(26rem,1fr));gap:1.2rem}figure{margin:0}.wide{grid-column:1/-1;max-width:60rem}
figure svg{width:100%;height:auto}figcaption{font-size:.9rem;color:#333}
pre{background:#f5f7f9;padding:.8rem;overflow-x:auto;font-size:.85rem}summary{cursor:pointer}
"""


def html_page(body: str) -> str:
    """Return the page around what :func:`render_html` returned for each run."""
    return (
        "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>fuseforget report</title><style>{STYLE}</style><body>{body}</body></html>\n"
    )


def render_html(blocks: Sequence[Block], show: Callable[[Picture], str]) -> str:
    """Return a run's part of the page; ``show`` returns a picture as an inline SVG element."""
    return "".join(_block(block, show) for block in blocks)


def _block(block: Block, show: Callable[[Picture], str]) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraphs(lines, kind):
            return f"<div class={kind}>" + "".join(f"<p>{escape(line)}</p>" for line in lines) + "</div>"
        case Pictures(pictures):
            return f"<div class=figures>{''.join(_picture(picture, show) for picture in pictures)}</div>"
        case Table():
            return _table(block)
        case Code(text):
            return f"<pre>{escape(text)}</pre>"
        case Details(title, blocks):
            return f"<details><summary>{escape(title)}</summary>{render_html(blocks, show)}</details>"


def _picture(picture: Picture, show: Callable[[Picture], str]) -> str:
    kind = " class=wide" if picture.wide else ""
    return f"<figure{kind}>{show(picture)}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    heading = f"<h2>{escape(table.title)}</h2>" if table.title else ""
    note = f"<p class=note>{escape(table.note)}</p>" if table.note else ""
    return f"{heading}{note}<div class=scroll><table><tr>{head}</tr>{body}</table></div>"
