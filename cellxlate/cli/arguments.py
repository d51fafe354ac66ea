"""What a command line says: only options that exist, and no file that an option before it has swallowed.

Options that take any number of words (`--channel DAPI GFP`) would take the stack behind them too. `Parser` looks at all
words before argparse does. Read `Parser.parse_known_args` first.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from cellxlate.cli.lines.output import printable
from cellxlate.errors import OptionError
from cellxlate.option_values import instead, nearest_name

NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")
OTHER_DASHES = "‐‑‒–—―−"
"""What word processors make of the hyphens of an option."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with what was probably meant. An option must be written in full.

    Attributes
    ----------
    groups : mapping of str to mapping of str to str
        For `--help`, of the parser that has the commands: by heading, each command with what it does.
    """

    def __init__(self, prog: str | None = None, description: str | None = None, epilog: str | None = None) -> None:
        super().__init__(prog, description=description, epilog=epilog, allow_abbrev=False)
        self.groups: dict[str, dict[str, str]] = {}
        self.register("type", float, _float)
        self.register("type", int, _int)

    def error(self, message: str) -> NoReturn:
        """Leave with one line on standard error."""
        line = printable(" ".join(message.split()), 1000)
        self.exit(OptionError.exit_code, f"{self.prog}: {line}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse words, after looking at them: each option must exist, files that one has swallowed come first."""
        words = [str(word) for word in (sys.argv[1:] if args is None else args)]
        return super().parse_known_args(self._begun(words) if self._commands else self._in_order(words), namespace)

    def format_help(self) -> str:
        """Return the help; of the parser that has the commands, they are listed in the order in which one uses them."""
        return _overview(self) if self.groups else super().format_help()

    @property
    def _commands(self) -> "dict[str, Parser]":
        """The commands of this parser; none where it is that of one."""
        return next((one.choices for one in self._actions if isinstance(one, argparse._SubParsersAction)), {})

    def _begun(self, words: list[str]) -> list[str]:
        """Return words that begin with a command, or leave: with the help where there are none."""
        if not words:
            self.print_help(sys.stderr)
            self.exit(OptionError.exit_code)
        for word in words:
            if not _is_option_like(word):
                if word in self._commands:
                    break
                file = "; to enhance a file, write cellxlate enhance FILE" if Path(word).exists() else ""
                self.error(f"there is no command {word!r}; {instead(word, list(self._commands))}{file}")
            if self._action(word) is None:
                known = [name for name, one in self._commands.items() if word in one._option_string_actions]
                if known:
                    self.error(f"{word} belongs behind a command, as in cellxlate {known[0]} ... {word}")
                self._refuse(word)
        return words

    def _in_order(self, words: list[str]) -> list[str]:
        """Return the words of a command with those first that belong to no option; leave where some make no sense."""
        options, alone = self._split(words)
        if any(isinstance(action, argparse._HelpAction) for action, _ in options):
            return words
        wanted = [action for action in self._actions if not action.option_strings]
        most = sum(len(words) if one.nargs == "+" else 1 for one in wanted)
        least = sum(one.nargs != "?" for one in wanted)
        if not words and (least or any(action.required for action in self._actions)):
            self.error(f"usage: {self._short_usage()}; {self.epilog}")
        for action, own in options:
            alone += _swallowed(action, own, wanted, none_alone=not alone)
        if len(alone) < least:
            took = [f"{own[0]} took {', '.join(own[1:])}" for action, own in options if _is_greedy(action) and own[1:]]
            behind = f" ({'; '.join(took)}: name it before that option)" if took else ""
            self.error(f"no {wanted[len(alone)].metavar} is given{behind}; usage: {self._short_usage()}; {self.epilog}")
        if len(alone) > most:
            self.error(f"{alone[most]} belongs to no option; usage: {self._short_usage()}; {self.epilog}")
        if any(word.startswith("-") for word in alone):  # names after --
            return words
        return [*alone, *(word for _, own in options for word in own)]

    def _split(self, words: Sequence[str]) -> tuple[list[tuple[argparse.Action, list[str]]], list[str]]:
        """Return each option with the words that argparse would give it, and the words that belong to none."""
        options: list[tuple[argparse.Action, list[str]]] = []
        alone: list[str] = []
        position = 0
        while position < len(words):
            word, position = words[position], position + 1
            if word == "--":
                return options, alone + list(words[position:])
            if not self._is_option(word):
                alone.append(word)
                continue
            action = self._action(word) or self._refuse(word)
            most = action.nargs if isinstance(action.nargs, int) else 1 if action.nargs in (None, "?") else len(words)
            own = [word]
            while word in action.option_strings and len(own) <= most and position < len(words):
                if words[position] == "--" or self._is_option(words[position]):
                    break
                own.append(words[position])
                position += 1
            options.append((action, own))
        return options, alone

    def _is_option(self, word: str) -> bool:
        """Return whether argparse takes a word for an option, or a user may have meant one."""
        if word[:1] in OTHER_DASHES and word and f"--{word.lstrip(OTHER_DASHES + '-')}" in self._option_string_actions:
            self.error(
                f"{word} begins with a dash that a word processor made; type --{word.lstrip(OTHER_DASHES + '-')}"
            )
        return _is_option_like(word) and (" " not in word or self._action(word) is not None)

    def _action(self, word: str) -> argparse.Action | None:
        """Return the option that a word is, or begins with (`--tile=64`, `-mcells`)."""
        name = word.partition("=")[0]
        if name in self._option_string_actions:
            return self._option_string_actions[name]
        if word.startswith("--") or f"-{name}" in self._option_string_actions:  # -model would be -m with "odel"
            return None
        return self._option_string_actions.get(word[:2])

    def _refuse(self, word: str) -> NoReturn:
        """Leave because there is no such option."""
        name = word.partition("=")[0]
        known = [one for one in self._option_string_actions if one.startswith("--")]
        if meant := nearest_name(name, known):
            self.error(f"there is no option {name}; did you mean {meant}?")
        file = f"; a file of that name is ./{word}" if Path(word).exists() else ""
        self.error(f"there is no option {name}{file}")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Return a word as a value; an empty one would be the current folder where a path is meant."""
        value = super()._get_value(action, arg_string)
        if not (arg_string or self._commands) and (isinstance(value, Path) or not action.option_strings):
            raise argparse.ArgumentError(action, "the name is empty; was a variable of the shell not set?")
        return value

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name = max(action.option_strings, key=len)
            self.error(f"{name} {value} is not known; {instead(value, [str(one) for one in action.choices])}")

    def _short_usage(self) -> str:
        """Return the words that a command must have, in one line."""
        parts = [self.prog]
        for action in self._actions:
            if not action.option_strings:
                name = f"{action.metavar} ..." if action.nargs == "+" else str(action.metavar)
                parts.append(f"[{name}]" if action.nargs == "?" else name)
            elif action.required:
                value = action.metavar or "|".join(action.choices or ())
                parts.append(f"{action.option_strings[0]} {value}{' ...' if action.nargs == '+' else ''}")
        return " ".join([*parts, "[options]"])


def _is_option_like(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not NEGATIVE.fullmatch(word)


def _is_greedy(action: argparse.Action) -> bool:
    return action.nargs in ("+", "*", "?")


def _swallowed(
    action: argparse.Action, own: list[str], wanted: Sequence[argparse.Action], *, none_alone: bool
) -> list[str]:
    """Take out of the words of an option, and return, what can be nothing but the files of a command that needs some.

    A value that an option cannot take is a file, if there is such a file. Where no file is named elsewhere, the last
    words of an option that takes many are files, if all of them are there; the first stays.
    """
    if not wanted or not _is_greedy(action) or own[0] not in action.option_strings:
        return []
    fits = _is_model if wanted[0].metavar == "MODEL" else _is_stack
    first = len(own)
    if action.nargs == "?":
        first = 1 if len(own) == 2 and not _converts(action, own[1]) and fits(own[1]) else 2
    elif none_alone and wanted[0].nargs != "?":
        while first > 2 and fits(own[first - 1]):
            first -= 1
    taken, own[first:] = own[first:], []
    return taken


def _converts(action: argparse.Action, word: str) -> bool:
    try:
        action.type(word)  # type: ignore[operator,misc]
    except (argparse.ArgumentTypeError, ValueError, TypeError):
        return False
    return True


def _is_stack(word: str) -> bool:
    """Return whether a word is a file, Zarr folder, pattern of planes or address, and so no name of a channel."""
    from cellxlate.stacks.naming import is_zarr
    from cellxlate.stacks.read.sets.planes import is_pattern

    path = Path(word)
    return "://" in word or path.is_file() or (path.is_dir() and ("/" in word or is_zarr(path))) or is_pattern(path)


def _is_model(word: str) -> bool:
    from cellxlate.model.cards import is_model

    return is_model(word)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None


def _overview(parser: Parser) -> str:
    """Return what there is to do, in the order in which one does it, and what to begin with."""
    import shutil
    import textwrap

    columns = min(shutil.get_terminal_size().columns, 100)
    lines = ["usage: cellxlate COMMAND ...", "", *textwrap.wrap(parser.description or "", columns)]
    for heading, commands in parser.groups.items():
        lines += ["", f"{heading}:"]
        for name, text in commands.items():
            first = f"  {name:10}"
            lines += textwrap.wrap(text, columns, initial_indent=first, subsequent_indent=" " * len(first))
    return "\n".join([*lines, "", parser.epilog or "", ""])
