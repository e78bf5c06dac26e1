"""What can be wrong with a job, its folder or its search."""


class JobError(ValueError):
    """A job cannot be read, cannot run, or asks for what nothing can give."""


class Infeasible(JobError):
    """No architecture found meets the constraints of a search."""
