"""Every error that leaves a layer. It knows no HTTP and imports nothing of ours.

ServiceError
    Refused                 the caller can act: the message is for them
        Unreadable          the input is not what it claims to be
        UnknownKind         a kind of input we do not read
        TooLarge            bytes, pixels, frames or people over a limit
        OutOfRange          readable, but a value is outside its range
        Unknown             no such model, version, skeleton
        Unauthorised        no key, or a wrong one
        Forbidden           a Host or Origin that is not ours
        Busy                come back later; says when
            ShareUsedUp     this caller's share of a queue is full
            QueueFull       everybody's queue is full
            NotReady        starting, draining, or the device is lost
        DeadlinePassed      the answer would come too late
        SettingWrong        a setting, at start-up or on the command line
    Failed                  we must act: the message is for the log
        NotFinite           a network answered with something that is no number
        EngineFailed        an engine broke
        StoreBroken         a file of the model store is not what its manifest says
"""

from __future__ import annotations


class ServiceError(Exception):
    """Root of the tree; only its leaves are raised."""


class Refused(ServiceError):
    """The caller can act. `field` names what was wrong, `limit` what would have been right."""

    def __init__(self, message: str, *, field: str | None = None, limit: object = None) -> None:
        super().__init__(message)
        self.field = field
        self.limit = limit


class Unreadable(Refused):
    """The body cannot be read as what it claims to be."""


class UnknownKind(Refused):
    """The body is of a kind that this service does not read."""


class TooLarge(Refused):
    """Over a limit of bytes, pixels, frames or people."""


class OutOfRange(Refused):
    """Readable, but a value is outside its range, or an option is unknown."""


class Unknown(Refused):
    """No model, version or page of that name."""


class Unauthorised(Refused):
    """No key, or a wrong one."""


class Forbidden(Refused):
    """A Host or Origin that the operator did not name."""


class Busy(Refused):
    """Come back after `retry_after_s` seconds."""

    def __init__(
        self, message: str, *, retry_after_s: float = 1.0, field: str | None = None, limit: object = None
    ) -> None:
        super().__init__(message, field=field, limit=limit)
        self.retry_after_s = retry_after_s


class ShareUsedUp(Busy):
    """This caller has as many rows queued as its share allows while others wait."""


class QueueFull(Busy):
    """The queue of a network holds as many rows as it may."""


class NotReady(Busy):
    """The service is starting or draining, or its device is lost."""


class DeadlinePassed(Refused):
    """The deadline passed before the answer was there; what was not computed yet never is."""


class SettingWrong(Refused):
    """A setting that cannot be honoured; the service does not start with it."""


class Failed(ServiceError):
    """Our fault: the message is for the log, a caller learns only the request's id."""


class NotFinite(Failed):
    """A network's output holds NaN or an infinity."""


class EngineFailed(Failed):
    """An engine raised, or answered with the wrong number of rows."""


class StoreBroken(Failed):
    """A file of the model store is missing, or is not what its manifest says."""
