"""Tables of methods and options in docs/methods.md, made from the code: ``python tests/docs_tables.py`` writes them."""

import re
import sys
from pathlib import Path

from tractbench.registry import load_method, method_names

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "methods.md"
EXAMPLE = ROOT / "examples" / "tractbench-meanflow" / "src"


def methods():
    """Every method of this repository with its source file: the built-in ones, then the example."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        from tractbench_meanflow.method import MeanFlow
    finally:
        sys.path.remove(str(EXAMPLE))
    built_in = [load_method(name) for name in method_names()]
    found = [(m, ROOT / "methods" / f"{m.name}.py") for m in built_in if m.__module__.startswith("tractbench.methods.")]
    return [*found, (MeanFlow, EXAMPLE / "tractbench_meanflow" / "method.py")]


def cell(value):
    if value == ():
        return "-"
    return f"`{value}`".lower() if isinstance(value, bool) else f"`{value}`"


def method_table():
    rows = ["| method | what it is | teacher | schedule of NFE 1 | NFEs of a student | lines |", "|" + " --- |" * 6]
    for method, file in methods():
        schedule = ", ".join(map(str, method().default_schedule(1))) or "-"
        nfes = "any" if method.any_nfe else "one" if method.trains else "-"
        teacher, lines = ", ".join(method.processes).upper(), len(file.read_text(encoding="utf-8").splitlines())
        rows.append(f"| `{method.name}` | {method.summary} | {teacher} | {schedule} | {nfes} | {lines} |")
    return "\n".join(rows)


def option_table():
    rows = ["| method | option | default | what it is |", "|" + " --- |" * 4]
    for method, _ in methods():
        for name, field in method.model_fields.items():
            rows.append(f"| `{method.name}` | `{name}` | {cell(field.default)} | {field.description} |")
        for name, value in method.defaults.items():
            rows.append(
                f"| `{method.name}` | `{name}` | {cell(value)} | a setting of every run, changed by this method |"
            )
    return "\n".join(rows)


TABLES = {"methods": method_table, "options": option_table}


def region(name):
    return re.compile(rf"(<!-- {name}: made by tests/docs_tables.py -->\n)(.*?)(\n<!-- end -->)", re.DOTALL)


if __name__ == "__main__":
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        made = table()
        text = region(name).sub(lambda found, made=made: found[1] + made + found[3], text)
    DOCUMENT.write_text(text, encoding="utf-8")
