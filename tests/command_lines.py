"""Command lines read back by the command line itself."""

import functools
import re
import shlex
from pathlib import PurePath

PUNCTUATION = "|&;<>()"
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")
"""What stands for a value in prose: ``--table NAME``."""


@functools.cache
def root():
    import typer

    from tractbench.cli import app

    return typer.main.get_command(app)


def simple_commands(text):
    """The commands of a shell script, as lists of words; what stands between them is a word of punctuation alone."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=PUNCTUATION)
        words.whitespace_split = True
        command = []
        for word in words:
            if set(word) <= set(PUNCTUATION):
                yield command
                yield [word]
                command = []
            else:
                command.append(word)
        yield command


def arguments(words):
    """What a command of the shell gives to tractbench, None if it runs something else."""
    words = words[next((i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words)) :]
    if words and PurePath(words[0]).name == "tractbench":
        return words[1:]
    if "tractbench" in words and words[words.index("tractbench") - 1] == "-m":
        return words[words.index("tractbench") + 1 :]
    return None


def in_shell(text):
    """Every command line of tractbench in a shell script, as its arguments."""
    found = (arguments(words) for words in simple_commands(text))
    return [given for given in found if given is not None]


def in_prose(text):
    """Every command line of tractbench that prose quotes as code, its placeholders filled in."""
    spans = re.findall(r"(?<!`)`(tractbench\s[^`]+)`(?!`)", text)
    return [[re.sub(r"(?<![\w.-])" + PLACEHOLDER.pattern + r"(?![\w.-])", "1", word) for word in given]
            for given in in_shell("\n".join(" ".join(span.split()) for span in spans))]  # fmt: skip


def parse(given):
    """The verb that arguments name, as a tuple of words, and its parameters; raises what the command line would.

    ``...`` stands for whatever else a verb is given. A group's name alone is a verb too.
    """
    command, verb, rest = root(), (), list(given)
    while rest and rest[0] in getattr(command, "commands", {}):
        command, verb, rest = command.commands[rest[0]], (*verb, rest[0]), rest[1:]
    rest = [word for word in rest if word != "..."]
    if hasattr(command, "commands"):  # nothing is parsed, as its options end the program
        known = {name for option in command.params for name in option.opts} | {"--help", "-h"}
        assert set(rest) <= known, f"tractbench {' '.join(verb)} has no {' '.join(set(rest) - known)}"
        return verb, {}
    if {"--help", "-h"} & set(rest):
        return verb, {}
    return verb, command.make_context(verb[-1], rest).params


def flags(command):
    """The settings that a command line of ``tractbench run`` gives, read by the command itself."""
    verb, params = parse(shlex.split(command)[1:])
    assert verb == ("run",)
    return settings(params)


def settings(params):
    """The settings of a run among a verb's parameters."""
    from tractbench.cli.options import parse_settings
    from tractbench.config.fields import RunConfig

    kept = {name: params[name] for name in params if name in RunConfig.model_fields}
    return kept | parse_settings(params["setting"] or [])
