"""What all verbs of the command line share: how much they say, and the list of their keys."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from lamae import console
from lamae.base.errors import UsageError

PRINT_CONFIG = "--print-config"
PrintConfig = Annotated[
    bool,
    typer.Option(PRINT_CONFIG, help="Only print the configuration: each key, what it does, where its value is from."),
]
SHARED = {
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Warnings, errors and results only.")],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="Every log record, for the report of a fault.")],
}


def share_options(app: typer.Typer) -> None:
    """Give every verb registered with ``app``, and ``app`` itself where it has a callback, the shared options."""
    for verb in app.registered_commands:
        verb.cls = Verb
    for each in (*app.registered_commands, app.registered_callback):
        if each is not None and each.callback is not None:
            each.callback = _with_verbosity(each.callback)


class Root(TyperGroup):
    """The command itself."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EOFError as error:  # which the command line would end with "Aborted." and no reason
            raise RuntimeError("something was read beyond its end") from error


class Verb(TyperCommand):
    """One verb. Where only its keys are to be printed it needs no arguments."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        for parameter in self.params:
            if parameter.param_type_name == "argument" and parameter.metavar is None:
                parameter.metavar = str(parameter.name).upper()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if PRINT_CONFIG not in args:
            return super().parse_args(ctx, args)
        places = [parameter for parameter in self.params if parameter.required]
        for parameter in places:
            parameter.required = False
        rest = super().parse_args(ctx, args)
        keys = [place.name for place in places if "=" in str(ctx.params[place.name])]  # where a path might have stood
        ctx.params["overrides"] = [*(str(ctx.params[name]) for name in keys), *(ctx.params["overrides"] or [])]
        ctx.params |= dict.fromkeys(keys)
        return rest


def check_words(root: Any, words: Sequence[str]) -> dict[str, Any]:
    """Parse the words after ``lamae`` and run nothing: what a verb would say against them is raised here.

    Gives the verb's parameters by name.
    """
    command: Any = root.command
    path: list[str] = []
    while words and hasattr(command, "resolve_command"):  # a group of verbs
        name, command, words = command.resolve_command(root, list(words))
        path.append(name)
    context = command.make_context(" ".join(path), list(words), parent=root)
    return dict(context.params)


def _with_verbosity(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with ``--quiet`` and ``--verbose`` as if they stood in its signature."""

    @functools.wraps(function)
    def verb(*args: Any, quiet: bool, verbose: bool, **options: Any) -> Any:
        if quiet and verbose:
            raise UsageError("--quiet and --verbose: which of the two?")
        if quiet or verbose:
            console.set_verbosity("quiet" if quiet else "verbose")
        return function(*args, **options)

    signature = inspect.signature(function)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in SHARED.items()
    ]
    parameters = [*signature.parameters.values(), *added]
    verb.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return verb
