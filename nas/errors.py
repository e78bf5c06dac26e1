"""What can be wrong with a job, its folder or its search."""


class JobError(ValueError):
    """A job cannot be read, cannot run, or asks for what nothing can give."""


class FaultError(JobError):
    """Nothing is wrong with the job: what it runs on failed, and the same may work when it is tried again."""
