"""Why an upload is refused: one line, in which nothing of the file can do harm."""

from __future__ import annotations

from nas.service.errors import ServiceError


class UploadRefused(ServiceError):
    """The file is not what it should be, or more than what is taken."""


def shown(text: str, most: int = 60) -> str:
    """A text of unknown origin for a message: short, and without what a terminal or a page would act on."""
    kept = "".join(letter if letter.isprintable() else "?" for letter in text[: most + 1])
    return kept if len(kept) <= most else f"{kept[:most]}..."
