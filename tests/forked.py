"""Work done in a forked process, which may be killed without taking the test with it."""

import os
import sys
from collections.abc import Callable


def in_child(work: Callable[[], None]) -> int:
    """The status of a forked process that did the work."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]
