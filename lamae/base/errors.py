"""The one family of exceptions that means "bad input", shared by every package.

The command line prints their message as a single line and exits with ``exit_code``; anything else that is
raised is a programming error and keeps its traceback.
"""


class LamaeError(Exception):
    """Something outside the program is wrong; the message says what, where and what to do."""

    exit_code = 1

    def __init__(self, message: str = "", *, all_ranks: bool = False) -> None:
        """``all_ranks``: every rank of the job raises the same, and rank 0 alone prints it."""
        super().__init__(message)
        self.all_ranks = all_ranks


class UsageError(LamaeError):
    """The command or the config can never work as written: schedulers must not retry it."""

    exit_code = 2
