"""Where the `mapsto` command begins and ends: errors become one message and an exit code.

Exit codes: 0 done; 1 a check found a difference; 2 an error of the user (a wrong option, file, model or input), or of
the system (no memory, a full disk); 3 an error of ours; 130 interrupted. A reader that closes the pipe has had enough:
that is no error. MAPSTO_DEBUG=1 (or more) shows the traceback of whatever went wrong.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from mapsto.cli.codes import INTERRUPTED, OUR_ERROR, USER_ERROR


def main() -> NoReturn:
    arguments = sys.argv[1:]
    try:
        _prepare_streams()
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `mapsto plan model.onnx | head`: whoever reads has had enough
        code = 0
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it has been heard
        code = INTERRUPTED
    except OSError as error:  # of a file it would name it, and not come up here as it is
        code = _tell(_of_output(error) if error.filename is None else error, "--json" in arguments)
    except Exception as error:
        code = _tell(error, "--json" in arguments)
    _close_streams()
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    """The exit code of a command. The command parser's own `main` is left aside: it ends by codes of its own."""
    import typer

    from mapsto.cli.app import app

    command: Any = typer.main.get_command(app)
    try:
        with command.make_context("mapsto", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # so `rich` ends where nobody reads its help
            raise BrokenPipeError from None
        return ended.code if isinstance(ended.code, int) else USER_ERROR
    return 0


# -- errors ------------------------------------------------------------------------------------------------------------


def _tell(error: Exception, as_json: bool) -> int:
    """Prints an error: one message, or a JSON object as well; its exit code."""
    from mapsto.boundary import translated
    from mapsto.debug import CHECKS, level
    from mapsto.errors import InternalError

    if isinstance(error.__cause__, BrokenPipeError):  # `-o /dev/stdout | head`
        return 0
    if hasattr(error, "format_message"):  # of the command parser, whose classes have no public name
        kind, message, code = "UsageError", _usage(error), USER_ERROR
    else:
        ours = translated(error, "mapsto")
        kind, message = type(ours).__name__, str(ours)
        code = OUR_ERROR if isinstance(ours, InternalError) else USER_ERROR
    with contextlib.suppress(OSError):
        if level() >= CHECKS:
            import traceback

            traceback.print_exception(error)
        print(f"mapsto: {'internal error' if code == OUR_ERROR else 'error'}: {message}", file=sys.stderr)
    if as_json:
        from mapsto.cli.output import print_json

        with contextlib.suppress(OSError):
            print_json({"error": kind, "message": message, "exit_code": code})
    return code


def _of_output(error: OSError) -> Exception:
    from mapsto.errors import FileError

    return FileError(f"standard output cannot be written: {error.strerror or error}")


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    message: str = error.format_message()
    if not message:  # no argument at all: the help has been printed
        return "a command is needed"
    if context is None:
        return message
    return f"{message}\n`{context.command_path} --help` tells all options."


# -- standard streams --------------------------------------------------------------------------------------------------


def _prepare_streams() -> None:
    """Standard streams that are there, and print any name, whatever their encoding.

    Where one is closed, the next file that is opened would take its number, and be read or written as that stream.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _close_streams() -> None:
    """What cannot be written any more is given up, so that the interpreter does not try again and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
