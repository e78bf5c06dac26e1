"""What can go wrong in the service."""


class ServiceError(RuntimeError):
    """The service cannot do what it was asked; the message is one line that says what to do."""


class Unavailable(ServiceError):
    """The database or the store of files is away, full or damaged; trying again later can work."""


class SchemaError(ServiceError):
    """The database holds tables that this version cannot work with."""


class NotFound(ServiceError):
    """There is no such thing, or it belongs to someone else; the two are not told apart."""


class Conflict(ServiceError):
    """What was asked contradicts what is recorded."""


class LimitReached(ServiceError):
    """The owner has as much of this as is allowed."""


class LeaseLost(ServiceError):
    """Whoever writes does not hold the job any more: nothing was written, and nothing more can be."""
