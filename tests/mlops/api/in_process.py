"""Children that are threads: what they do is seen by the test's own patches and clocks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from mlops.api.children import Children, Reservation


class InProcess(Children):
    """Calls each function in a thread of this process, without limits.

    ``gate`` holds the work up while it is not set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self._threads: list[threading.Thread] = []

    def start(
        self, reservation: Reservation, function: Callable[..., Any], *given: Any
    ) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        reservation.hand_over()

        def work() -> None:
            self.gate.wait(30)
            try:
                value = function(*given)
            except Exception as error:
                reservation.release()
                future.set_exception(error)
            else:
                reservation.release()
                future.set_result(value)

        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()
        return future

    def close(self) -> None:
        """Wait for the work: MLflow has one address a process, which it would change later on."""
        self.gate.set()
        for thread in self._threads:
            thread.join()
