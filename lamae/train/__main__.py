"""``python -m lamae.train CONFIG [key=value …]``: the trainer as torchrun, the DeepSpeed launcher and srun start it."""

import os
import sys

from lamae import console
from lamae.base import allocator
from lamae.base.errors import LamaeError, UsageError
from lamae.train.ranks.place import is_said_here

USAGE = "usage: python -m lamae.train CONFIG [key=value ...]"


def main(arguments: list[str]) -> int:
    """Train as the command line says; the exit code."""
    # The DeepSpeed launcher adds its own rank argument; the environment says the same.
    arguments = [argument for argument in arguments if not argument.startswith("--local_rank")]
    console.set_up_logging()
    console.say_when_terminated()
    allocator.share_one_arena()
    from lamae.train.runconfig import load  # numpy comes with it, and its threads

    try:
        if not arguments:
            raise UsageError(USAGE)
        config = load(arguments[0], arguments[1:])
        from lamae.train.loop import train

        return train(config)
    except LamaeError as error:
        if is_said_here(error, os.environ):
            console.print_error(str(error))
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
