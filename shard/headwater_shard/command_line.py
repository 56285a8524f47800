"""What the command lines with typer share: missing extras, usage errors, the exit code.

A user's mistake is one line with the fix and exit code 2; a traceback comes with `--debug` only.
"""

import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater_protocol.errors import ConfigError, HeadwaterError

if TYPE_CHECKING:
    import typer


@dataclass(slots=True, kw_only=True)
class Options:
    """What holds for every sub-command; the context's `obj`."""

    debug: bool = False


def run_app(
    program: str,
    build_app: Callable[[], "typer.Typer"],
    argv: Sequence[str] | None,
    *,
    extra: str,
) -> int:
    """Run a typer application and return the exit code.

    Args:
        program: The script's name, in front of its messages.
        build_app: Makes the application; called once typer is known to be there.
        argv: The arguments; None takes the process'.
        extra: What to install where a package is missing.
    """
    options = Options()
    try:
        import typer
        from typer.main import get_command

        command = get_command(build_app())
    except ModuleNotFoundError as error:
        return refuse(
            program, error, options, f'{error.name} is not installed; pip install "{extra}"'
        )
    except HeadwaterError as error:
        return refuse(program, error, options, str(error))
    # Newer versions of typer bring a click of their own; its errors are reached through typer.
    usage_error = next(
        kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
    )
    try:
        code = command.main(
            args=list(sys.argv[1:] if argv is None else argv),
            prog_name=program,
            standalone_mode=False,
            obj=options,
        )
    except HeadwaterError as error:
        return refuse(program, error, options, str(error), code=_code(error))
    except Exception as error:
        if type(error).__name__ == "Abort":
            return refuse(program, error, options, "interrupted", code=130)
        if not isinstance(error, usage_error):
            raise
        message = str(getattr(error, "format_message", error.__str__)()).strip()
        line = message.splitlines()[0].rstrip(".")
        return refuse(program, error, options, f"{line}; see {program} --help")
    return code if isinstance(code, int) else 0


def refuse(program: str, error: Exception, options: Options, message: str, *, code: int = 2) -> int:
    """Say one line on stderr; the exit code."""
    if options.debug:
        traceback.print_exception(error)
    print(f"{program}: {message}", file=sys.stderr)
    return code


def _code(error: HeadwaterError) -> int:
    """2 for what the user can correct in the call, 1 for what went wrong on the way."""
    return 2 if isinstance(error, ConfigError) else 1
