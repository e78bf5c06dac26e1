"""What can be wrong with data, training or checkpoints."""


class SupernetError(ValueError):
    """Base of every error of this package."""


class DataError(SupernetError):
    """The images cannot be used."""


class CheckpointError(SupernetError):
    """A checkpoint cannot be read, or belongs to something else."""


class TrainError(SupernetError):
    """Training cannot go on."""
