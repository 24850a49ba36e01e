"""Tables as Markdown, LaTeX and HTML: the blocks of dvfl.report.layout, written out."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd

from dvfl.report.layout import blocks

NOTE = (
    "Values with 95 % intervals in brackets; `interval` says what they cover. "
    "Everything at full precision, with run ids, is in the CSV file of the same name."
)


def as_markdown(frame: pd.DataFrame, words: str = "") -> str:
    """Pipe tables under headings, and before them what is said of them in `words`, paragraphs between empty lines."""
    parts = [_markdown(paragraph) for paragraph in _paragraphs(words)]
    table = None
    for block in blocks(frame):
        if block.table != table:
            table = block.table
            parts += [f"## {_markdown(table)}", NOTE]
        if block.heading:
            parts.append(f"**{_markdown(block.heading)}**")
        cells = [block.columns, *block.lines]
        rows = ["| " + " | ".join(map(_markdown, line)) + " |" for line in cells]
        rows.insert(1, "|" + " --- |" * len(block.columns))
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n" if parts else "No rows.\n"


def as_latex(frame: pd.DataFrame) -> str:
    """booktabs tabulars, to be \\input; needs the package booktabs."""
    parts = ["% Needs \\usepackage{booktabs}. " + NOTE]
    for block in blocks(frame):
        caption = f"{block.table}: {block.heading}" if block.heading else block.table
        wide = {i for i, name in enumerate(block.columns) if name in ("setting", "machine")}
        form = "".join("p{6cm}" if i in wide else "l" for i in range(len(block.columns)))
        body = [" & ".join(map(_latex, line)) + r" \\" for line in block.lines]
        head = " & ".join(map(_latex, block.columns)) + r" \\"
        parts.append(
            "\n".join(
                [
                    r"\begin{table}[htbp]",
                    r"\centering\footnotesize",
                    rf"\caption{{{_latex(caption)}}}",
                    rf"\begin{{tabular}}{{{form}}}",
                    r"\toprule",
                    head,
                    r"\midrule",
                    *body,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def as_html(frame: pd.DataFrame, csv: str, name: str, words: str = "") -> str:
    """A page for a browser and for Snakemake's report, with the CSV file, `name`.csv, in it; `words` as above."""
    parts = [f"<p>{escape(paragraph)}</p>" for paragraph in _paragraphs(words)]
    parts.append(f"<p>{escape(NOTE.replace('`', ''))} {csv_link(csv, name)}</p>")
    table = None
    for block in blocks(frame):
        if block.table != table:
            table = block.table
            parts.append(f"<h1>{escape(table)}</h1>")
        if block.heading:
            parts.append(f"<h2>{escape(block.heading)}</h2>")
        parts.append(html_table(block.columns, block.lines))
    return html_page(parts if table else [*parts, "<p>No rows.</p>"])


def html_page(parts: Iterable[str]) -> str:
    """A document of these elements."""
    return _PAGE.format(body="\n".join(parts))


def html_table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table element of plain text."""
    head, body = _row("th", columns), "".join(_row("td", line) for line in lines)
    return f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}</tbody>\n</table>"


def csv_link(csv: str, name: str) -> str:
    """A link that saves a CSV file, which it holds, as `name`.csv."""
    data = b64encode(csv.encode()).decode()
    return f'<a download="{escape(name)}.csv" href="data:text/csv;base64,{data}">Save that file.</a>'


def _row(tag: str, cells: Sequence[str]) -> str:
    whole = [re.sub(r"(\[\S+), (\S+\])", "\\1,&nbsp;\\2", escape(cell)) for cell in cells]  # an interval, in one line
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in whole) + "</tr>\n"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<style>
body {{ font: 14px/1.4 sans-serif; color: #222; background: #fff; margin: 1.5em; }}
h1 {{ font-size: 1.3em; }}
h2 {{ font-size: 1em; margin: 1.8em 0 0.4em; }}
table {{ border-collapse: collapse; border-top: 2px solid; border-bottom: 2px solid; }}
th, td {{ text-align: left; vertical-align: top; padding: 0.2em 0.8em 0.2em 0; font-variant-numeric: tabular-nums; }}
td {{ border-top: 1px solid #ddd; max-width: 40em; }}
</style>
{body}
</html>
"""


def _paragraphs(text: str) -> list[str]:
    return [paragraph for paragraph in text.strip().split("\n\n") if paragraph]


def _markdown(text: str) -> str:
    for character in "\\|_*<`":
        text = text.replace(character, "\\" + character)
    return text.replace("\n", " ")


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "–": "--",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
