"""What a process does when the one that started it is gone. Imports nothing heavy."""

import os
import threading
import time
from collections.abc import Callable

LOOK_EVERY_S = 0.2


def when_orphaned(parent: int, act: Callable[[], None]) -> None:
    """Call ``act`` on a thread of its own soon after ``parent``, the process that started this one, has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY_S)
        act()

    threading.Thread(target=watch, daemon=True).start()


def exit_with(parent: int) -> None:
    """End this process, as it stands, soon after ``parent``: a pool's worker would wait for work for ever."""
    when_orphaned(parent, lambda: os._exit(1))
