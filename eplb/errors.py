"""The user's mistakes, and how a command reports them: one line, exit status 2."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

SCORED, REFUSED, MISUSED = 0, 1, 2


class UserError(Exception):
    """Something the user can put right; the message names the file or value and the way out."""


def exit_on_user_error(main: Callable[[], int]) -> None:
    """Run a command's ``main`` and leave with its status; a `UserError` becomes one line and 2."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(MISUSED)
    except BrokenPipeError:
        # The reader of our output went away (`… | head`). Python would complain once more when it
        # flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
