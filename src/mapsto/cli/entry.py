"""Where the `mapsto` command begins and ends: errors become one message and an exit code.

Exit codes: 0 done; 1 a check failed; 2 an error of the user (a wrong option, file, model or input); 3 an error of ours;
130 interrupted. MAPSTO_DEBUG=1 (or more) shows the traceback of whatever went wrong.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

CHECK_FAILED = 1
USER_ERROR = 2
OUR_ERROR = 3
INTERRUPTED = 130


def main() -> NoReturn:
    from mapsto.debug import CHECKS, level
    from mapsto.errors import MapstoError

    debug = level() >= CHECKS
    try:
        from mapsto.cli.app import app

        app(prog_name="mapsto")
    except MapstoError as error:
        if debug:
            raise
        _quit(f"error: {error}", USER_ERROR)
    except BrokenPipeError:  # `mapsto plan model.onnx | head`: whoever reads has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        _quit("interrupted", INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        what = f"internal error: {type(error).__name__}: {error}"
        _quit(f"{what}\nThis is a fault of mapsto. MAPSTO_DEBUG=1 shows where it happened.", OUR_ERROR)
    sys.exit(0)


def _quit(message: str, code: int) -> NoReturn:
    print(f"mapsto: {message}", file=sys.stderr)
    sys.exit(code)
