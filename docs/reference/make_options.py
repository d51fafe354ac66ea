"""Write `options.md`, every command and option as the parser has them: `python docs/reference/make_options.py`."""

import argparse
from pathlib import Path

from cellxlate.cli.parser import EXAMPLES, GROUPS, build_parser

COMMON = ("help", "json", "quiet", "debug")
INTRODUCTION = """# Every option

What `cellxlate COMMAND --help` says, on one page. Beside what stands here every command has `--help`, `--json` (one
JSON object on standard output, nothing else there), `--quiet` (no progress and no summary) and `--debug` (the traceback
of an error); `cellxlate --version` says which version it is. Values in brackets are taken where nothing is given.
What is printed, and what comes of it: [commands, files, exit codes](command-line.md). In Python the options are
[keywords](python.md#enhance).
"""


def page() -> str:
    """Return the page."""
    commands = next(one for one in build_parser()._actions if isinstance(one, argparse._SubParsersAction)).choices
    parts = [INTRODUCTION]
    for name in (name for names in GROUPS.values() for name in names):
        parser = commands[name]
        rows = [row(one) for one in parser._actions if one.dest not in COMMON]
        parts.append(f"## {name}\n{parser.description} Example: `{EXAMPLES[name]}`\n")
        if rows:
            parts.append("\n".join(["| option | means |", "|---|---|", *rows, ""]))
    return "\n".join(parts)


def row(option: argparse.Action) -> str:
    """Return the line of an option: what is typed, what it means, and which values there are."""
    value = str(option.metavar or "") if option.choices is None else ""
    value = value or (option.dest.upper() if option.nargs != 0 and option.choices is None else "")
    many = {"+": f"{value} ...", "?": f"[{value}]"}.get(str(option.nargs), value)
    typed = [
        f"`{one} {many}`" if many and one == option.option_strings[-1] else f"`{one}`" for one in option.option_strings
    ]
    means = (option.help or "") % {"default": option.default}
    if option.choices:
        means += f": {', '.join(f'`{one}`' for one in option.choices)}"
    if option.required and option.option_strings:
        means += "; must be given"
    return f"| {', '.join(typed) or f'`{many}`'} | {means} |".replace("NAME|N", r"NAME\|N").replace("S|F", r"S\|F")


if __name__ == "__main__":
    Path(__file__).with_name("options.md").write_text(page(), encoding="utf-8")
