"""Words of other people, in Markdown and in CSV: shown as they are, and nothing but words."""

from __future__ import annotations

import re

MARKUP = re.compile(r"[\\|<>*`\[\]&~$]|(?<![^\W_])_|_(?![^\W_])")
BLOCK = re.compile(r"^(?:[#+=-]|\d+(?=[.)]))")
"""What begins a heading, a list or a rule at the start of a line."""

FORMULA = ("=", "+", "-", "@", "|", "%", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What begins a formula or a command in some spreadsheet; the last four are the full-width forms."""


def markdown_text(text: str) -> str:
    """Return text that Markdown shows as it is, in one line: of markup, HTML and formulas nothing is left."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def markdown_paragraph(text: str) -> str:
    """Return text that stands at the start of a line of Markdown and is no heading, list or rule there."""
    shown = markdown_text(text)
    start = BLOCK.match(shown)
    if start is None:
        return shown
    marked = start.end() if start[0].isdigit() else 0  # 1. becomes 1\., - becomes \-
    return f"{shown[:marked]}\\{shown[marked:]}"


def spreadsheet_safe(text: str) -> str:
    """Return text that no spreadsheet takes for a formula, whatever white space it trims; numbers are left alone."""
    begins = text.lstrip().startswith(FORMULA) or text[:1] in ("\t", "\r", "\n")
    return f"'{text}" if begins and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
