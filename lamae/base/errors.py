"""Exit codes, and the one family of exceptions that means "bad input", shared by every package.

The command line prints their message as a single line and exits with ``exit_code``; anything else that is
raised is a programming error and keeps its traceback.
"""

EXIT_DONE = 0

EXIT_FAILED = 1
"""Something outside the program is wrong; the same command may work once it is put right."""

EXIT_USAGE = 2
"""Bad usage or configuration: never tried again."""

EXIT_STOPPED = 75
"""Stopped on request, after saving: to be started again."""

EXIT_HUNG = 76
"""Ended by the watchdog, which saw no step for too long. Nothing was saved: to be started again, from the newest
checkpoint."""

EXIT_INTERRUPTED = 130
"""Ctrl-C, as shells report it."""


class LamaeError(Exception):
    """Something outside the program is wrong; the message says what, where and what to do."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str = "", *, all_ranks: bool = False) -> None:
        """``all_ranks``: every rank of the job raises the same, and rank 0 alone prints it."""
        super().__init__(message)
        self.all_ranks = all_ranks


class NewerError(LamaeError):
    """A later lamae wrote it, in a form that this one does not know."""


class UsageError(LamaeError):
    """The command or the config can never work as written: schedulers must not retry it."""

    exit_code = EXIT_USAGE
