"""What can be wrong with a space, an architecture or their files."""


class SpaceError(ValueError):
    """A space, a choice, an architecture or one of their files is not valid."""
