"""What can be wrong with a job, its folder or its search."""


class JobError(ValueError):
    """A job cannot be read, cannot run, or asks for what nothing can give."""
