"""Every error the library raises on purpose.

    MlopsError
    ├── SettingsError          a setting is missing, malformed or out of range
    ├── ServiceError           a symbol, timeframe, target or horizon that names no service
    │   └── ServiceNotFound    ... that has begun here
    ├── DataError              bars that cannot be used
    │   ├── BarsError          rows or columns that break the bars contract
    │   ├── SourceError        an exchange or file that could not be read
    │   └── InsufficientData   fewer bars than the work needs
    ├── SplitError             slices that overlap, leak or are empty
    ├── FeatureError           an unknown or impossible feature specification
    │   └── LookaheadError     a feature that reads the future
    ├── ModelError             an unknown model type, a bad configuration or a bad forecast
    │   ├── NotFinite          a forecast that is no number
    │   ├── ModelUnavailable   a custom model whose code is missing here, or not allowed
    │   └── ModelFileError     a model file that cannot be read
    │       └── UnsupportedFormat  ... because it is no file of a format that is read
    ├── TrainingError          a training that could not finish
    │   └── TrainingTimeout    ... because its deadline passed
    ├── GateError              evidence that cannot be judged
    ├── BundleError            a version's files are missing, altered or not loadable
    │   └── BundleUnavailable  ... here, by no fault of the version: another machine may load it
    │       └── KeyMismatch    ... because its signing key is another one
    ├── RegistryError          registration or look-up failed
    │   ├── VersionNotFound    no version under that id
    │   └── DiskFull           ... because the disk has no room for it
    ├── ServingError           a request that was not answered
    │   ├── RequestRefused     ... because it is wrong: status, code and message say how
    │   ├── QueueFull          ... because too many wait already
    │   ├── BodiesFull         ... because large bodies fill the memory they may have
    │   ├── TimedOut           ... because its time ran out, by no version's fault
    │   ├── NotReady           ... because no version of the service is ready yet
    │   ├── NotLoaded          a version that this process does not hold
    │   └── ModelFault         a version that failed on a good request
    ├── RolloutError           a rollout that was requested and is impossible
    │   ├── RolloutRefused     ... because the version may not go live
    │   │   └── AbTestRefused  ... or its A/B test may not begin
    │   │       └── AbTestMalformed  ... because what was asked for cannot be
    │   ├── RolloutFailed      a rollout that was undone
    │   ├── RolloutNotFound    no rollout under that id
    │   └── AbTestNotFound     no A/B test under that id
    ├── BackupError            a copy that cannot be taken, or not be restored
    ├── ChildError             work that a child process did not finish
    │   ├── ChildrenBusy       ... because as many work as may; try again later
    │   └── ChildKilled        ... because it took too much memory or time
    ├── OperationNotFound      no operation under that id
    ├── AlertNotSent           a message that a channel did not accept
    │   └── AlertRefused       ... for its length or its text, and would not accept later
    ├── ScheduleError          a training job that cannot be scheduled
    │   ├── JobNotFound        no job under that id
    │   └── SchedulerUnavailable  no Prefect server answers, or it lacks our deployments
    └── StoreError             the store refused a change
        ├── RequestKeyReused   ... of a request whose key another request has
        ├── RowRefused         ... because it breaks the store's rules, now and later
        ├── WatchRefused       ... of a version in which nothing could drift
        ├── LeaseLost          ... of a process whose lease another one holds now
        └── ReplicaNameTaken   ... of a replica whose name another living process has

A message says what was got, what is allowed and what to do; parts that a program may need are
attributes.
"""

from __future__ import annotations

from mlops.credentials import without_credentials


class MlopsError(Exception):
    """Root of all errors raised on purpose; its text shows no credential of a URL."""

    def __init__(self, *parts: object):
        super().__init__(
            *(without_credentials(part) if isinstance(part, str) else part for part in parts)
        )


class SettingsError(MlopsError):
    """A setting is missing, malformed or out of range."""


class ServiceError(MlopsError, ValueError):
    """A symbol, timeframe, target or horizon that names no service."""


class ServiceNotFound(ServiceError, LookupError):
    """No service under that key has begun here."""


class DataError(MlopsError):
    """Bars that cannot be used."""


class BarsError(DataError, ValueError):
    """Rows or columns that break the bars contract.

    ``column`` and ``rows`` (positions in the input, first offenders only) tell where.
    """

    def __init__(self, message: str, *, column: str | None = None, rows: tuple[int, ...] = ()):
        super().__init__(message)
        self.column = column
        self.rows = rows


class SourceError(DataError):
    """An exchange or file that could not be read."""


class InsufficientData(DataError):
    """Fewer bars than the work needs."""

    def __init__(self, *, got: int, needed: int, what: str):
        super().__init__(
            f"{what} needs at least {needed:,} bars but got {got:,}; "
            "load a longer period or lower the requirement"
        )
        self.got = got
        self.needed = needed


class SplitError(MlopsError, ValueError):
    """Slices that overlap, leak or are empty."""


class FeatureError(MlopsError, ValueError):
    """An unknown or impossible feature specification."""


class LookaheadError(FeatureError):
    """A feature that reads the future."""

    def __init__(self, *, feature: str, bar: str, how: str):
        super().__init__(
            f"feature {feature!r} looks ahead: its value at bar {bar} changes when {how}; "
            "a feature may use bars up to and including its own bar only"
        )
        self.feature = feature
        self.bar = bar


class ModelError(MlopsError, ValueError):
    """An unknown model type, a bad configuration or a bad forecast."""


class NotFinite(ModelError):
    """A forecast that is NaN or infinite."""


class ModelUnavailable(ModelError):
    """A custom model whose code is not installed in this process, or not allowed to run."""


class ModelFileError(ModelError):
    """A model file that cannot be read, or does not hold what its header says."""


class UnsupportedFormat(ModelFileError):
    """Bytes that begin as no model file that is read here."""


class TrainingError(MlopsError):
    """A training that could not finish."""


class TrainingTimeout(TrainingError):
    """A training whose deadline passed."""


class GateError(MlopsError, ValueError):
    """Evidence that cannot be judged."""


class BundleError(MlopsError):
    """A version's files are missing, altered or not loadable."""


class BundleUnavailable(BundleError):
    """A version that this process cannot fetch or open, by no fault of the version."""


class KeyMismatch(BundleUnavailable):
    """A signing key that is not the one of the store, or did not sign the bundle."""


class RegistryError(MlopsError):
    """Registration or look-up failed."""


class VersionNotFound(RegistryError, LookupError):
    """No version under that id."""


class DiskFull(RegistryError):
    """A registration for which the disk has no room."""


class BackupError(MlopsError):
    """A copy of an installation that cannot be taken, or not be restored."""


class ChildError(MlopsError):
    """Work that a child process did not finish."""


class ChildrenBusy(ChildError):
    """As many child processes work as may.

    Args:
        kind: The kind of work that found no free place.
        retry_after_s: Seconds after which to try again.
    """

    def __init__(self, kind: str, *, retry_after_s: int):
        super().__init__(
            f"another {kind} is being worked on, and one at a time may be; try again in "
            f"{retry_after_s} seconds"
        )
        self.retry_after_s = retry_after_s


class ChildKilled(ChildError):
    """A child process that ended before its work did, most often by its limits."""


class OperationNotFound(MlopsError, LookupError):
    """No operation under that id."""


class AlertNotSent(MlopsError):
    """A message that a channel did not accept; it is sent again later."""


class AlertRefused(AlertNotSent):
    """A message that a channel refused for its length or its text, however often it is sent."""


class ScheduleError(MlopsError, ValueError):
    """A training job that cannot be scheduled."""


class JobNotFound(ScheduleError, LookupError):
    """No training job under that id."""


class SchedulerUnavailable(ScheduleError):
    """No Prefect server keeps jobs and runs trainings here now."""


class StoreError(MlopsError):
    """The store refused a change."""


class RowRefused(StoreError):
    """Values that break the store's rules; to write them again is of no use."""


class RequestKeyReused(StoreError, ValueError):
    """A request under a key that another request has."""


class WatchRefused(StoreError):
    """A version that is not worth watching, because it has learned nothing."""


class LeaseLost(StoreError):
    """A write by a process whose lease another process holds now."""

    def __init__(self, name: str, term: int):
        super().__init__(
            f"the {name} lease of term {term} is no longer held here; nothing was changed. "
            "Read the state again, and acquire the lease before acting on it"
        )
        self.name = name
        self.term = term


class ReplicaNameTaken(StoreError):
    """A replica whose name another living process has."""

    def __init__(self, name: str, address: str):
        super().__init__(
            f"another process serves as replica {name!r} (at {address}); end it, or give this one "
            "a name of its own with --name"
        )
        self.name = name


class ServingError(MlopsError):
    """A request that was not answered."""


class RequestRefused(ServingError, ValueError):
    """A request that is wrong; ``status`` is HTTP's, ``code`` the protocol's name for it.

    Args:
        headers: Fields that the reply has beside those of every reply.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ):
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers


class QueueFull(ServingError):
    """More windows are waiting than the queue holds."""

    def __init__(self, *, waiting: int, limit: int):
        super().__init__(
            f"{waiting} windows are waiting, at most {limit} may; try again in a second, or add "
            "a replica (SERVING_QUEUE_LIMIT sets the limit)"
        )


class BodiesFull(ServingError):
    """Large bodies of requests hold all the memory that they may have together."""

    def __init__(self, *, held: int, limit: int):
        super().__init__(
            f"{held:,} bytes of large bodies are being read, at most {limit:,} may; try again in a "
            "second, or send smaller bodies"
        )


class TimedOut(ServingError, TimeoutError):
    """A request whose time ran out, by no version's fault.

    Args:
        waited_s: Seconds in the queue.
        stalled_s: Seconds in which this process was stalled, where that was the cause.
    """

    def __init__(self, *, waited_s: float, timeout_s: float, stalled_s: float | None = None):
        cause = f"no answer within {timeout_s:g} s, {waited_s:.2g} s of them in the queue"
        if stalled_s is not None:
            cause = (
                f"no answer within {timeout_s:g} s: this process was stalled for {stalled_s:.2g} s"
            )
        super().__init__(f"{cause}; try again later, or add a replica")


class NotReady(ServingError):
    """No version of a service is ready in this process."""

    def __init__(self, service: str):
        super().__init__(f"no version of {service} is ready here yet; try again in a second")


class NotLoaded(ServingError, LookupError):
    """A version that this process does not hold."""

    def __init__(self, model_id: str):
        super().__init__(f"{model_id} is not loaded in this process")
        self.model_id = model_id


class ModelFault(ServingError):
    """A version that failed on a good request; ``kind`` is error, timeout or non_finite."""

    def __init__(self, model_id: str, kind: str, message: str):
        super().__init__(f"{model_id} failed ({kind}): {message}")
        self.model_id = model_id
        self.kind = kind


class RolloutError(MlopsError):
    """A rollout that was requested and is impossible."""


class RolloutRefused(RolloutError):
    """A version that may not go live.

    Args:
        gates: A sentence for each gate that refused it.
    """

    def __init__(self, message: str, *, gates: tuple[str, ...] = ()):
        super().__init__(message)
        self.gates = gates


class AbTestRefused(RolloutRefused):
    """An A/B test that may not begin as things stand."""


class AbTestMalformed(AbTestRefused, ValueError):
    """A request for an A/B test that cannot be, whatever the state of the service."""


class RolloutFailed(RolloutError):
    """A rollout that was undone; the previous champion serves."""


class RolloutNotFound(RolloutError, LookupError):
    """No rollout under that id."""


class AbTestNotFound(RolloutError, LookupError):
    """No A/B test under that id."""
