"""What the docstrings of the job's dataclasses say of each key, as one line for the form."""

from __future__ import annotations

import dataclasses
import inspect
import re

MARK = re.compile(r"(?:^|(?<=[.;,:] ))`(\w+)`:? ")
SENTENCE_END = re.compile(r"(?<=[\w)])[.;](?: |$)")


def help_of(cls: type) -> dict[str, str]:
    """Field -> what follows its name in the docstring, up to the next field's or the end of the sentence.

    A name counts where a clause begins with it: "`epochs`: passes over the images; `batch` is images a step."
    """
    text = " ".join((inspect.getdoc(cls) or "").split())
    known = {each.name for each in dataclasses.fields(cls)}
    marks = [mark for mark in MARK.finditer(text) if mark[1] in known]
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return {mark[1]: _sentence(text[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)}


def _sentence(clause: str) -> str:
    words = SENTENCE_END.split(clause)[0].strip(" ,;.").removeprefix("is ").removeprefix("gives ")
    return f"{words[:1].upper()}{words[1:]}.".replace("`", "")
