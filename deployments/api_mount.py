"""The HTTP API of a process: in front of a replica's data plane, or alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

from mlops.api.app import Dispatcher, build_api
from mlops.api.browsers import is_loopback
from mlops.api.context import ApiContext
from mlops.api.jobs import TrainingJobs
from mlops.errors import SettingsError
from mlops.manager import MLOpsManager
from mlops.serving.app import App
from mlops.settings import Settings

log = logging.getLogger("mlops.api")


def make_context(settings: Settings, is_draining: Callable[[], bool]) -> ApiContext:
    """What the API of this process works with.

    Args:
        settings: Of this process.
        is_draining: Whether the process is about to end.
    """
    manager = MLOpsManager(settings)
    open_jobs = partial(open_prefect_jobs, settings, manager)
    return ApiContext(manager, open_jobs=open_jobs, is_draining=is_draining)


def open_prefect_jobs(settings: Settings, manager: MLOpsManager) -> TrainingJobs:
    """The training jobs that Prefect keeps."""
    # Imported on first use, because Prefect's client takes a second.
    from deployments.api_jobs import PrefectJobs

    return PrefectJobs(settings, manager)


def check_host(host: str) -> None:
    """Refuse to answer the API to other machines: it knows no identities yet.

    Raises:
        SettingsError: for an address that other machines reach.
    """
    if not is_loopback(host):
        raise SettingsError(
            f"the HTTP API listens on 127.0.0.1 only, not on {host}: it knows no identities, and "
            "whoever reaches it may deploy and retire. Set API_HOST=127.0.0.1, or let it out of "
            "replicas with API_IN_REPLICA=false"
        )


@contextmanager
def mounted_api(plane: App, settings: Settings, host: str) -> Iterator[Dispatcher | App]:
    """The data plane of a replica with the API in front, where that may be answered.

    At the end of the block no child of the API works any more.

    Args:
        plane: The data plane.
        settings: Of this process.
        host: The address that the replica listens on.
    """
    if not settings.api_in_replica:
        yield plane
        return
    try:
        check_host(host)
    except SettingsError as error:
        log.warning("this replica answers forecasts, and no API: %s", error)
        yield plane
        return
    with closing(make_context(settings, lambda: plane.draining)) as context:
        yield Dispatcher(build_api(context), plane)
