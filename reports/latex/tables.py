"""One table in LaTeX: in pieces that fit on a page, numbers aligned at the point."""

from __future__ import annotations

import re
from dataclasses import replace
from textwrap import shorten, wrap

from tractbench.reports.latex.text import latex_text
from tractbench.reports.sheet import ABSENT, Entry, Sheet

NUMBER = re.compile(r"(-?\d+)(?:\.(\d+))?((?: [±/\[(]| /).*)?")

LONG_TITLE = 10
"""Characters from which on a column's title takes two lines in print."""

LATEX_LINES = 44
"""Lines of a table that fit on a printed page with caption and footnotes."""

WIDE = 8
"""Columns from which on a table takes both columns of a two-column page."""

FIRST_SHARE, SHARE = 0.36, 0.16
"""Width of a first and of any other column of sentences, as a part of the line."""

LINE = 110
"""Characters of a table's type that fit on a line."""

LONG_TEXT = 120
"""Characters after which a sentence in a table is cut in print."""


def split(sheet: Sheet) -> list[Sheet]:
    """Return a table in pieces that fit on a page; what belongs to all of it stands with the last."""
    pieces: list[list[tuple[Entry, ...]]] = [[]]
    lines = 0
    for row in sheet.rows:
        height = max(_height(sheet, index, entry) for index, entry in enumerate(row))
        if pieces[-1] and lines + height > LATEX_LINES:
            pieces.append([])
            lines = 0
        pieces[-1].append(row)
        lines += height
    result = []
    for number, rows in enumerate(pieces, 1):
        last = number == len(pieces)
        piece = replace(sheet, rows=tuple(rows), foot=sheet.foot if last else (), notes=sheet.notes if last else {})
        if number > 1:
            piece = replace(piece, id=f"{sheet.id}-{number}", title=f"{sheet.title}, continued", caption="")
        result.append(piece)
    return result


def _height(sheet: Sheet, index: int, entry: Entry) -> int:
    """Return about how many lines an entry takes in print."""
    column = sheet.columns[index]
    if not (column.wide and column.printed):
        return 1
    width = int(LINE * (SHARE if index else FIRST_SHARE))
    return len(wrap(_cut(entry.text), width, break_on_hyphens=False)) or 1


def _cut(text: str) -> str:
    """Return a sentence as long as print has room for."""
    return text if len(text) <= LONG_TEXT else shorten(text, LONG_TEXT, placeholder=" ...")


def latex_table(sheet: Sheet) -> str:
    """Return one table: numbers aligned at the point, the best in bold, footnotes below."""
    filled = {index for row in sheet.rows for index, entry in enumerate(row) if entry.text != ABSENT}
    indices = [index for index, column in enumerate(sheet.columns) if column.printed and index in filled]
    columns = [_LatexColumn(sheet, index) for index in indices]
    head = " & ".join(column.head for column in columns)
    rows = [" & ".join(c.entry(row[i]) for c, i in zip(columns, indices, strict=True)) for row in sheet.rows]
    lines = [f"    {row} \\\\" for row in rows]
    if sheet.foot:
        # its name is longer than those above and takes the next column too, which is empty
        first = rf"\multicolumn{{2}}{{@{{}}p{{{SHARE}\linewidth}}}}{{\raggedright {latex_text(sheet.foot[0].text)}}}"
        foot = " & ".join([first, *(c.entry(sheet.foot[i]) for c, i in zip(columns[2:], indices[2:], strict=True))])
        lines += ["    \\midrule", f"    {foot} \\\\"]
    notes = r"\quad ".join(rf"\textsuperscript{{{letter}}}~{latex_text(text)}" for letter, text in sheet.notes.items())
    return LATEX_TABLE.format(
        environment="table*" if len(columns) >= WIDE or any(column.wide for column in columns) else "table",
        caption=latex_text(f"{sheet.title}. {sheet.legend}"),
        id=sheet.id,
        kinds="".join(c.kind for c in columns),
        head=head,
        body="\n".join(lines),
        notes=f"  \\par\\smallskip\\raggedright\\footnotesize {notes}\n" if notes else "",
    )


LATEX_TABLE = r"""\begin{{{environment}}}[htbp]
  \centering
  \caption{{{caption}}}
  \label{{tab:{id}}}
  \par\medskip
  \footnotesize\setlength{{\tabcolsep}}{{2.5pt}}\sisetup{{mode=text, reset-text-series=false}}
  \sbox0{{%
  \begin{{tabular}}{{@{{}}{kinds}@{{}}}}
    \toprule
    {head} \\
    \midrule
{body}
    \bottomrule
  \end{{tabular}}}}
  \ifdim\wd0>\linewidth
    \typeout{{tractbench: table {id} of \the\wd0\space is scaled to \the\linewidth}}%
    \resizebox{{\linewidth}}{{!}}{{\usebox0}}%
  \else\usebox0\fi
{notes}\end{{{environment}}}
"""


class _LatexColumn:
    """How a column is set: text, sentences, or numbers aligned at the point, what follows them in a column behind."""

    def __init__(self, sheet: Sheet, index: int) -> None:
        self.title = latex_text(sheet.columns[index].title)
        self.first = index == 0
        self.wide, self.number = sheet.columns[index].wide, sheet.columns[index].number
        entries = [row[index] for row in [*sheet.rows, *([sheet.foot] if sheet.foot else [])]]
        found = [NUMBER.fullmatch(entry.text) for entry in entries]
        numbers = [match for match in found if match]
        unaligned = any(not m and re.search(r"\d", entry.text) for m, entry in zip(found, entries, strict=True))
        self.aligned = self.number and bool(numbers) and not unaligned
        self.whole = max((len(match[1].lstrip("-")) for match in numbers), default=1)
        self.places = max((len(match[2] or "") for match in numbers), default=0)
        self.negative = any(match[1].startswith("-") for match in numbers)
        self.behind = self.aligned and (any(m[3] for m in numbers) or any(e.marks for e in entries))

    @property
    def kind(self) -> str:
        """The column's type in the tabular's head."""
        if self.wide:
            return rf">{{\raggedright\arraybackslash}}p{{{FIRST_SHARE if self.first else SHARE}\linewidth}}"
        if not self.aligned:
            return "r" if self.number else "l"
        form = f"S[table-format={'-' * self.negative}{self.whole}.{self.places}]"
        return f"{form}@{{\\,}}l" if self.behind else form

    @property
    def head(self) -> str:
        """The column's title."""
        words = self._stacked()
        if self.behind:
            return rf"\multicolumn{{2}}{{c}}{{{words}}}"
        return f"{{{words}}}" if self.aligned else words

    def _stacked(self) -> str:
        """Return the title, a long one in two lines: at its last comma, else at the space nearest to its middle."""
        breaks = [match.start() for match in re.finditer(", ", self.title)][-1:]
        if not breaks and len(self.title) > LONG_TITLE:
            breaks = [match.start() for match in re.finditer(" ", self.title)]
        if self.wide or not breaks:
            return self.title
        at = min(breaks, key=lambda place: abs(place - len(self.title) / 2))
        first, rest = self.title[:at], self.title[at:].removeprefix(",").strip()
        align = "c" if self.aligned else "r" if self.number else "l"
        return (
            rf"\begin{{tabular}}[b]{{@{{}}{align}@{{}}}}{first}{',' * (self.title[at] == ',')}\\{rest}\end{{tabular}}"
        )

    def entry(self, entry: Entry) -> str:
        """Return one entry."""
        marks = rf"\textsuperscript{{{','.join(entry.marks)}}}" if entry.marks else ""
        bold = r"\bfseries " if entry.best else ""
        match = NUMBER.fullmatch(entry.text) if self.aligned else None
        if match:
            number = match[1] + (f".{match[2]}" if match[2] else "")
            rest = latex_text((match[3] or "").strip()).replace("$ ", r"$\,", 1)
            rest = re.sub(r"-(?=\d)", "$-$", rest)
            return f"{bold}{number} & {bold if rest else ''}{rest}{marks}" if self.behind else f"{bold}{number}"
        text = bold + latex_text(_cut(entry.text) if self.wide else entry.text)
        if self.behind:
            return rf"\multicolumn{{2}}{{c}}{{{text}{marks}}}"
        return f"{{{text}{marks}}}" if self.aligned else text + marks
