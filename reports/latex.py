"""Writes a report as LaTeX: a document, fragments for other documents, and figures as PDF."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten, wrap
from typing import Any

from tractbench.io.files import write_atomic
from tractbench.reports.chapters.chapter import Chapter
from tractbench.reports.document import Document
from tractbench.reports.figures import Chart
from tractbench.reports.render import grid_files
from tractbench.reports.sheet import ABSENT, Entry, Sheet, slug

LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "±": r"$\pm$", "∞": r"$\infty$", "→": r"$\to$", "|": r"\textbar{}",
    '"': "''", "[": "{[}", "*": "{*}", "✓": r"$\checkmark$", "✗": r"$\times$", "○": r"$\circ$", "≠": r"$\neq$",
} | {character: f"\\{character}" for character in "&%$#_{}"}  # fmt: skip


@lru_cache(maxsize=1 << 16)
def escape_latex(text: str) -> str:
    """Return text in which no character has a meaning to LaTeX; one that LaTeX has no name for becomes ``?``."""
    return str(_encoder().unicode_to_latex(text))


@lru_cache(maxsize=1)
def _encoder() -> Any:
    from pylatexenc.latexencode import (
        RULE_CALLABLE,
        RULE_DICT,
        UnicodeToLatexConversionRule,
        UnicodeToLatexEncoder,
    )

    own = UnicodeToLatexConversionRule(RULE_DICT, {ord(character): command for character, command in LATEX.items()})
    others = UnicodeToLatexConversionRule(RULE_CALLABLE, lambda text, at: None if _in_latex(text[at]) else (1, "?"))
    return UnicodeToLatexEncoder(
        conversion_rules=[own, others, "defaults"],
        unknown_char_policy=lambda character: "?",
        unknown_char_warning=False,
    )


def _in_latex(character: str) -> bool:
    """Whether LaTeX with the packages above has a command for a character: Latin, Greek, punctuation, mathematics."""
    ranges = ((0x20, 0x7E), (0xA0, 0x17F), (0x370, 0x3FF), (0x2010, 0x22FF))
    return any(low <= ord(character) <= high for low, high in ranges) and character not in WITHOUT_COMMAND


WITHOUT_COMMAND = frozenset(
    "ŉΐϒ\N{NON-BREAKING HYPHEN}ℋℐℒℛℬℰℱℳ⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞↜↝⇅⇵∟∬∭∯∰∱∻\N{INVERTED LAZY S}≆≋≌≙≛≸≹⊧⊨⊫⊶⊷⊹⊾⋘⋙⋨⋰"
)
"""Characters for which pylatexenc names commands of packages that are not loaded."""


def latex_text(text: str) -> str:
    """Return escaped text in which words that are longer than a line may be broken."""
    return " ".join(r"\allowbreak{}".join(escape_latex(part) for part in _pieces(word)) for word in text.split())


def _pieces(word: str) -> list[str]:
    return [word] if len(word) <= LONG_WORD else [word[at : at + 8] for at in range(0, len(word), 8)]


NUMBER = re.compile(r"(-?\d+)(?:\.(\d+))?((?: [±/\[(]| /).*)?")

LONG_WORD = 14
"""Characters from which on a word may be broken in print."""

LONG_TITLE = 10
"""Characters from which on a column's title takes two lines in print."""

PACKAGES = ("booktabs", "siunitx", "graphicx", "array", "amssymb")
"""What the tables and figures need of LaTeX."""

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


def latex_tables(sheets: Sequence[Sheet], command: str) -> str:
    """Return tables as a fragment that a LaTeX document takes in by ``input``.

    Args:
        sheets: the tables; those without rows are left out.
        command: the command that makes the fragment, for its head.
    """
    return _latex_head(command) + "\n".join(
        _latex_table(part) for sheet in sheets if sheet.rows for part in _split(sheet)
    )


def _latex_head(command: str) -> str:
    """Return what every file begins with: what made it, what it needs."""
    needs = " ".join(rf"\usepackage{{{name}}}" for name in PACKAGES)
    return (
        f"% tractbench {version('tractbench')}: {' '.join(command.split())}\n"
        f"% For \\input; needs {needs}\n"
        "% and, from another folder, \\newcommand{\\tractbenchdir}{folder/} for the figures\n"
        "\\providecommand{\\tractbenchdir}{}\n"
    )


def write_latex(document: Document, folder: Path, command: str) -> None:
    """Write a document of its own, ``report.tex``, with one fragment for each table and the figures as PDF.

    Args:
        document: what it shows.
        folder: where to; files of these names are replaced.
        command: the command that makes it, for the head of each file.
    """
    body = []
    for chapter in document.chapters:
        name = slug(chapter.id.removeprefix("table-"))
        text = "".join(_latex_part(part, chapter.title, folder) for part in chapter.order)
        for nfe, files in grid_files(document.root, chapter):
            text += _latex_grids(chapter, nfe, files, folder)
        write_atomic(folder / f"{name}.tex", _latex_head(command) + text)
        intro = latex_text(chapter.intro)
        body.append(f"\\section{{{latex_text(chapter.title)}}}\n{intro}\n\\input{{{name}}}\n\\clearpage\n")
    if document.sheets:
        write_atomic(folder / "runs.tex", latex_tables(document.sheets, command))
        body.append("\\section{All runs}\n\\input{runs}\n")
    packages = "\n".join(rf"\usepackage{{{name}}}" for name in PACKAGES)
    write_atomic(
        folder / "report.tex",
        "\\documentclass[10pt]{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{lmodern}\n"
        "\\usepackage[a4paper,margin=2cm]{geometry}\n"
        f"{packages}\n\\setlength{{\\emergencystretch}}{{3em}}\n\\begin{{document}}\n"
        f"{''.join(body)}\\end{{document}}\n",
    )


def _latex_part(part: Sheet | Chart, title: str, folder: Path) -> str:
    """Return a table or figure whose caption tells which chapter it is of."""
    if isinstance(part, Sheet):
        titled = part.title if part.title == title else f"{title}: {part.title}"
        return "".join(_latex_table(piece) for piece in _split(replace(part, title=titled))) if part.rows else ""
    write_atomic(folder / f"{part.id}.pdf", part.pdf)
    return (
        "\\begin{figure}[htbp]\n  \\centering\n"
        f"  \\includegraphics[width=0.75\\linewidth]{{\\tractbenchdir {part.id}.pdf}}\n"
        f"  \\caption{{{latex_text(f'{title}: {part.caption}')}}}\n  \\label{{fig:{part.id}}}\n\\end{{figure}}\n"
    )


def _latex_grids(chapter: Chapter, nfe: int, files: Sequence[tuple[str, Path]], folder: Path) -> str:
    name = f"{slug(chapter.id.removeprefix('table-'))}-samples-{nfe}"
    cells = []
    for index, (title, path) in enumerate(files):
        write_atomic(folder / f"{name}-{index}.png", path.read_bytes())
        cells.append(
            "  \\begin{minipage}[t]{0.155\\linewidth}\\raggedright\\footnotesize\n"
            f"    \\includegraphics[width=\\linewidth]{{\\tractbenchdir {name}-{index}.png}}\\\\\n"
            f"    {latex_text(title)}\n  \\end{{minipage}}\\hspace{{0.01\\linewidth}}%\n"
        )
    caption = latex_text(f"{chapter.title}: samples from the same noise, {nfe} NFE.")
    return (
        f"\\begin{{figure}}[htbp]\n  \\raggedright\n{''.join(cells)}  \\caption{{{caption}}}\n"
        f"  \\label{{fig:{name}}}\n\\end{{figure}}\n"
    )


def _split(sheet: Sheet) -> list[Sheet]:
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


def _latex_table(sheet: Sheet) -> str:
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
