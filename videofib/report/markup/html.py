"""Parts of HTML pages. Whatever comes from a file passes through ``text``, which escapes it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape

from videofib.printable import printable
from videofib.report.markup.style import SCRIPT, STYLE


def text(value: object) -> str:
    """Anything as text that is safe in an element or a quoted attribute; unprintable characters are escaped."""
    return escape(printable(value))


def breakable(value: object) -> str:
    """Text of an element with line breaks allowed within paths and keys, after ``/ . _ -``; not within numbers."""
    return re.sub(r"(?<=\w)(?:[/_-]|\.(?!\d))(?=\w)", r"\g<0><wbr>", text(value))


def setting(value: object) -> str:
    """A value of a config as YAML and JSON write it, on one line; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict | bool) else str(value)


JPEG_URI = "data:image/jpeg;base64,"  # what the data URI of a JPEG picture begins with


def data_uri(kind: str, content: bytes) -> str:
    """A picture as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numeric: bool = False,
    raw: bool = False,
    wide: bool = False,
) -> str:
    """A table whose first column names its rows.

    Args:
        numeric: all columns but the first are aligned right.
        wide: cells may be long paths or keys, and are broken within these.
        raw: cells are HTML, not text; the caption and header never are.
    """
    kinds = [name for name, given in (("numeric", numeric), ("wide", wide)) if given]
    cell = (lambda value: value) if raw else breakable if wide else text
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    lines = (
        f'<tr><th scope="row">{cell(first)}</th>{"".join(f"<td>{cell(value)}</td>" for value in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table class="{" ".join(kinds)}"><caption>{text(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def section(anchor: str, title: str, content: str) -> str:
    """A part of the page with a heading."""
    return f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{text(title)}</h2>\n{content}\n</section>\n'


def document(title: str, head: str, parts: Sequence[tuple[str, str, str]]) -> str:
    """A page of ``parts`` (anchor, title, HTML), with links to each below its ``head``; empty parts are left out."""
    parts = [part for part in parts if part[2]]
    links = "".join(f'<li><a href="#{anchor}">{text(name)}</a></li>' for anchor, name, _ in parts)
    script = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
{head}
<nav aria-label="Contents"><ul>{links}</ul></nav>
{"".join(section(*part) for part in parts)}</main>
<script>{SCRIPT}</script>
</body>
</html>
"""
