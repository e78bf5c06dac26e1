"""What can go wrong between an agent and its server."""


class AgentError(ValueError):
    """The agent cannot go on; the message says why and what to do, in one line."""


class Refused(AgentError):
    """The server understood the request and will not have it."""


class Unwelcome(Refused):
    """The server will have nothing of this agent: its token is revoked, or it speaks another version."""


class Stale(AgentError):
    """The task is no longer this agent's: it has ended, was cancelled, or was given out again."""


class Away(AgentError):
    """The server cannot be reached, or not now; the same request may work later."""
