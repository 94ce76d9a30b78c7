"""Command lines as nnU-Net's commands take them: ``-tr A B`` as well as ``-tr A -tr B``, ``-device`` as one word."""

import re
from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand

from nnunet_xattnres.cli.errors import shown_to_the_user

_WORD = re.compile(r"-[A-Za-z][A-Za-z]")


class NnunetCommand(TyperCommand):
    """A command that reads its options as nnU-Net's do, and says without a traceback what the user can mend.

    Options that may be repeated take all values up to the next option. A word after a single dash is the name of an
    option, never a short one with its value: where there is no -device it must not become -d with the value "evice".
    """

    # ctx is of click, or of the click that newer versions of typer bring along
    def invoke(self, ctx: Any) -> Any:
        with shown_to_the_user():
            return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options: dict[str, Any] = {}
        for parameter in self.get_params(ctx):
            for name in (*parameter.opts, *parameter.secondary_opts):
                if name.startswith("-"):
                    options[name] = parameter
        words = list(_words(args, options))
        unknown = next((word for word, known in words if not known), None)
        if unknown is not None:
            ctx.fail(f"No such option: {unknown}")
        if any(not word or (word.startswith("--") and word.partition("=")[1:] == ("=", "")) for word, _ in words):
            ctx.fail("An argument is empty: is the variable set that stands in its place?")
        several = {name for name, parameter in options.items() if getattr(parameter, "multiple", False)}
        return super().parse_args(ctx, _repeated([word for word, _ in words], several))


def _words(args: list[str], options: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Each argument, -d=4 as two, and whether it can be one: a word after one dash must be an option or a value."""
    is_value = literally = False
    for argument in args:
        name, equals, value = argument.partition("=")
        option = None if is_value or literally else options.get(name)
        literally = literally or (argument == "--" and not is_value)
        takes_value = option is not None and not getattr(option, "is_flag", False)
        if takes_value and equals and not name.startswith("--"):
            yield from ((name, True), (value, True))
        elif option is None and not is_value and not literally and _WORD.match(name):
            yield name, False
        else:
            yield argument, True
        is_value = takes_value and not equals


def _repeated(args: list[str], several: set[str]) -> list[str]:
    found: list[str] = []
    option: str | None = None
    for i, argument in enumerate(args):
        if argument in several:
            option = argument
            if not args[i + 1 :] or args[i + 1].startswith("-"):
                found.append(argument)  # without a value: click says so
        elif argument.startswith("-"):
            option = None
            found.append(argument)
        else:
            found += [argument] if option is None else [option, argument]
    return found
