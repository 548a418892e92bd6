"""Text in which no character has a meaning to LaTeX."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

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


LONG_WORD = 14
"""Characters from which on a word may be broken in print."""
