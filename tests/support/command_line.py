"""Whether a command line takes words: parsed as the program would, and nothing is run."""

from __future__ import annotations

import click


def takes(program: click.Command, words: list[str], *, parent: click.Context | None = None) -> list[str]:
    """The names of the commands that the words lead to. Raises click.UsageError for what is unknown or missing."""
    name = program.name or "program"
    if not isinstance(program, click.Group):
        try:
            program.make_context(name, list(words), parent=parent)
        except click.BadParameter as error:
            # A file that is to be there when somebody runs it need not be there now.
            if "does not exist" not in error.message:
                raise
        except click.exceptions.Exit:  # --help, --version
            return []
        return []
    context = click.Context(program, parent=parent, info_name=name)
    try:
        program.parse_args(context, list(words))
    except click.exceptions.Exit:
        return []
    rest = [*context._protected_args, *context.args]
    found, command, after = program.resolve_command(context, rest)
    assert found is not None and command is not None
    return [found, *takes(command, after, parent=context)]
