"""The labels in a column of a table: one a row, or a list of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernets.datasource import DataSource
from supernets.errors import DataError


@dataclass(frozen=True, slots=True)
class LabelColumn:
    """Whole numbers as an array, or names; `lengths` is how many each row has, where rows have lists."""

    values: Sequence[str] | NDArray[np.int64]
    lengths: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.values if self.lengths is None else self.lengths)


def read_labels(column: Any, where: str, source: DataSource) -> LabelColumn:
    """The labels of a pyarrow column. A row without a label is refused, where that is not said by an empty list."""
    import pyarrow.compute

    name = source.label_column
    if column.null_count:
        raise DataError(f"row {_first_null(column)} of {where} has no label; give it one, or remove the row")
    if not _lists(column.type):
        wanted = "whole numbers or names, or lists of them" if source.many_labels else "whole numbers or names"
        return LabelColumn(_values(column, f"the column {name!r} of {where}", f"holds {column.type}; wanted {wanted}"))
    if not source.many_labels:
        raise DataError(
            f"the column {name!r} of {where} holds lists of labels; set data.task to multi_label, or give one label a row"
        )
    lengths = np.asarray(pyarrow.compute.list_value_length(column).to_numpy(), dtype=np.int64)
    inner = pyarrow.compute.list_flatten(column)
    if inner.null_count:
        row = int(np.searchsorted(np.cumsum(lengths), _first_null(inner), side="right"))
        raise DataError(f"row {row} of {where} has a null among its labels; take it out")
    wrong = f"holds {column.type}; wanted lists of whole numbers or of names"
    # A row of yes and no for all classes: as numbers, these would be the classes 0 and 1.
    if pyarrow.types.is_boolean(inner.type):
        raise DataError(f"the column {name!r} of {where} {wrong}")
    return LabelColumn(_values(inner, f"the column {name!r} of {where}", wrong), lengths)


def joined(columns: Sequence[LabelColumn], where: str) -> LabelColumn:
    """The rows of all columns one after the other; where some have lists, a plain label is a list of one."""
    kinds = {isinstance(column.values, np.ndarray) for column in columns if len(column.values)}
    if len(kinds) > 1:
        raise DataError(f"{where} and names in others")
    values: Sequence[str] | NDArray[np.int64] = [value for column in columns for value in column.values]
    if kinds != {False}:
        values = np.concatenate([np.asarray(column.values, dtype=np.int64) for column in columns])
    if all(column.lengths is None for column in columns):
        return LabelColumn(values)
    ones = (np.ones(len(column), dtype=np.int64) for column in columns)
    lengths = [one if column.lengths is None else column.lengths for column, one in zip(columns, ones, strict=True)]
    return LabelColumn(values, np.concatenate(lengths))


def names_of(feature: Any) -> tuple[str, ...] | None:
    """The class names in a feature of the hub's library, or in its JSON; in that of a list they are one level down."""
    inner = feature[0] if isinstance(feature, list) and feature else _part(feature, "feature")
    names = _part(feature if inner is None else inner, "names")
    return tuple(map(str, names)) if names else None


def _part(feature: Any, name: str) -> Any:
    return feature.get(name) if isinstance(feature, Mapping) else getattr(feature, name, None)


def _values(column: Any, where: str, wrong: str) -> Sequence[str] | NDArray[np.int64]:
    import pyarrow
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if types.is_integer(kind) or types.is_boolean(kind):
        try:
            return np.asarray(column.cast(kind).cast(pyarrow.int64()).to_numpy(), dtype=np.int64)
        except pyarrow.ArrowInvalid as error:
            raise DataError(f"{where} has labels beyond 64 bits") from error
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return [str(value) for value in column.to_pylist()]
    if types.is_null(kind):  # what empty lists alone have in them
        return []
    raise DataError(f"{where} {wrong}")


def _lists(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _first_null(column: Any) -> int:
    return int(column.is_null().to_pylist().index(True))
