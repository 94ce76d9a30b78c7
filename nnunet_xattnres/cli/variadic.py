"""Options that take several values, as nnU-Net's do: ``-tr A B`` as well as ``-tr A -tr B``."""

from typing import Any

from typer.core import TyperCommand


class VariadicCommand(TyperCommand):
    """A command whose options that may be repeated take all values up to the next option."""

    # ctx is of click, or of the click that newer versions of typer bring along
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        several: set[str] = set()
        for parameter in self.params:
            if getattr(parameter, "multiple", False):
                several.update(parameter.opts)
        return super().parse_args(ctx, _repeated(args, several))


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
