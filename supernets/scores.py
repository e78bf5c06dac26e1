"""What people call the score of a task, as they read it; all of this without torch."""

from __future__ import annotations

from collections.abc import Mapping

from supernets.datasource import TaskName

SCORES: Mapping[TaskName, str] = {"single_label": "accuracy", "multi_label": "mean average precision"}
CLASS_SCORES: Mapping[TaskName, str] = {"single_label": "recall", "multi_label": "average precision"}
"""Of each class by itself."""
