"""completion: the shell completes commands and options."""

import click
from click.shell_completion import get_completion_class

_EXAMPLES = """
\b
Examples:
  eval "$(imgpipe completion bash)"          for this shell; in ~/.bashrc for all
  eval "$(imgpipe completion zsh)"
  imgpipe completion fish > ~/.config/fish/completions/imgpipe.fish
"""


@click.command(epilog=_EXAMPLES, short_help="Print a script that makes the shell complete commands.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that makes the shell complete the commands and options of imgpipe."""
    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 - click has all three
    click.echo(made(context.find_root().command, {}, "imgpipe", "_IMGPIPE_COMPLETE").source())
