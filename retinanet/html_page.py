"""The parts of a page that stands alone: one HTML file, no scripts, nothing from any host.

A policy in the page's head makes the browser refuse both. Headings and names given here are
written in the code; what comes from outside is escaped by whoever gives a cell or a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from retinanet.figures.overlay import escaped
from retinanet.figures.palette import LEVEL_COLORS

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

Column = tuple[str, bool]
"""A column's heading, and whether it holds numbers."""


def page(title: str, parts: Sequence[str]) -> str:
    """The page, from parts that are HTML already."""
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return _PAGE.format(title=escaped(title), style=style, body="\n".join(parts))


def section(heading: str, said: str, content: str) -> str:
    """A heading, a line of words (escaped here; "" for none) and HTML."""
    lead = f"<p>{escaped(said)}</p>" if said else ""
    return f"<section><h2>{heading}</h2>{lead}{content}</section>"


def html_table(name: str, columns: Sequence[Column], rows: Sequence[str]) -> str:
    """A table, scrolled where it is too wide.

    Args:
        name: said to those who do not see it.
        columns: a level's name as heading has the level's colour before it.
        rows: each a `<tr>`.
    """
    heads = "".join(
        f'<th scope="col"{" class=n" if is_number else ""}>{swatch(LEVEL_COLORS.get(heading))}'
        f"{heading}</th>"
        for heading, is_number in columns
    )
    return (
        f'<div class="scroll" role="region" aria-label="{name}" tabindex="0"><table><thead>'
        f"<tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def definition_list(heading: str, rows: Iterable[tuple[str, str]]) -> str:
    """Names and values, both escaped here."""
    cells = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>" for name, value in rows)
    return f"<section><h2>{heading}</h2><dl>{cells}</dl></section>"


def number_cell(text: str) -> str:
    """A cell with a number, which the page writes itself."""
    return f'<td class="n">{text}</td>'


def swatch(color: str | None) -> str:
    """A patch of a colour; None is none."""
    return f'<i style="background:{color}"></i>' if color else ""


def command_line(command: str) -> str:
    """A command as a line to copy; "" is none. No line breaks at an option's hyphens."""
    words = " ".join(f"<span>{escaped(word)}</span>" for word in command.split(" "))
    return f"<pre><code>{words}</code></pre>" if command else ""
