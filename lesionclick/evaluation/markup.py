"""Pieces of HTML that the sections of a report share."""

import base64
import html
import math
from collections.abc import Iterable

UNDEFINED = "&ndash;"


def number(value: float, digits: int) -> str:
    """Return a value with so many decimals, or a dash where it is NaN."""
    return UNDEFINED if math.isnan(value) else f"{value:.{digits}f}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table; the cells are HTML."""
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"


def bar(share: float) -> str:
    """Return a cell with a share of 0 to 1 as number and bar."""
    percent = 0.0 if math.isnan(share) else 100 * share
    return f'<div class="bar" style="--share: {percent:.1f}%">{number(share, 3)}</div>'


def picture(png: bytes, name: str, caption: str) -> str:
    """Return a picture of a case with its caption; the picture is in the page itself."""
    data = base64.b64encode(png).decode("ascii")
    image = f'<img src="data:image/png;base64,{data}" alt="{html.escape(name)}, {caption}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def legend(entries: Iterable[tuple[str, str]], scale: str) -> str:
    """Return a legend: a glyph and a text for each entry, then the scale of the grey values."""
    spans = "".join(f"<span>{glyph}{text}</span>" for text, glyph in entries)
    return f'<div class="legend">{spans}<span>{scale}</span></div>'


def circle(colour: str) -> str:
    """Return the glyph of an outline."""
    return _glyph(f'<circle cx="11" cy="8" r="5.5" fill="none" stroke="{colour}" stroke-width="2"/>')


def patch(colour: str) -> str:
    """Return the glyph of a tinted area."""
    return _glyph(f'<rect x="4" y="2.5" width="14" height="11" fill="{colour}" opacity=".75"/>')


def cross(colour: str, path: str = "M11 2v12M5 8h12") -> str:
    """Return the glyph of a point: two strokes, upright unless `path` says otherwise."""
    return _glyph(f'<path d="{path}" stroke="{colour}" stroke-width="2.2" fill="none"/>')


def _glyph(shape: str) -> str:
    return f'<svg width="22" height="16" viewBox="0 0 22 16" aria-hidden="true">{shape}</svg>'
