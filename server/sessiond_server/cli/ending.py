"""How the process of a command ends."""

import logging
import os
import sys
from contextlib import suppress

from sessiond_server import telemetry
from sessiond_server.settings import SettingError, Settings, scrub


def code_of(error: Exception, settings: Settings | None) -> int:
    """Prints what an operator needs to know of the error, and returns the exit code."""
    if isinstance(error, SettingError):
        print(f"sessiond: {error}", file=sys.stderr)
        return 2
    from sessiond_server.app.errors import message_for_operator

    text = message_for_operator(error)
    if text is None:
        text = f"unexpected error; please report it\n{telemetry.describe(error)}"
    print(f"sessiond: {scrub(settings, text) if settings else text}", file=sys.stderr)
    return 1


def ended(code: int) -> int:
    """Returns the exit code, or ends the process with it where the interpreter's own end could lose it.

    Threads of obstore may call into an interpreter that is shutting down. Python then ends them by unwinding their
    stack, at which Rust aborts the process: 1 of 10 runs of `check` with a dead storage ended with SIGABRT.
    """
    if "obstore" in sys.modules:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        logging.shutdown()
        os._exit(code)
    return code
