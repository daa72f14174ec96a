"""How a table is declared: columns, types, key, partition.

Belongs here: the two dataclasses from which suites, published schemas, dbt contracts and docs
derive. Does not belong here: any particular table (orchestration declares those), any check
(`suites.py`, `rules.py`), any import beyond the standard library: this module is loaded with the
definitions.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, get_args

ColumnType = Literal[
    "string", "integer", "decimal", "double", "boolean", "date", "timestamp"
]  # "decimal" is DECIMAL(18,4), "timestamp" is UTC in microseconds, "integer" signed, 64 bits
NUMERIC_TYPES: frozenset[ColumnType] = frozenset({"integer", "decimal", "double"})

Bound = int | float | Decimal | datetime.date
Value = str | int | bool


@dataclass(frozen=True)
class Column:
    """One column of a table.

    `minimum` and `maximum` are inclusive; `allowed` lists every legal value. None of the three
    judges a null: whether null is legal says `nullable`.
    """

    name: str
    type: ColumnType
    nullable: bool
    minimum: Bound | None = None
    maximum: Bound | None = None
    allowed: tuple[Value, ...] | None = None
    description: str = ""

    def __post_init__(self) -> None:
        """Refuse an unknown type, bounds that exclude everything and an empty set of values."""
        if self.type not in get_args(ColumnType):
            raise ValueError(
                f"column {self.name}: unknown type {self.type!r}; use one of "
                f"{', '.join(get_args(ColumnType))}"
            )
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:  # type: ignore[operator]
            raise ValueError(f"column {self.name}: minimum {self.minimum} > maximum {self.maximum}")
        if self.allowed is not None and not self.allowed:
            raise ValueError(f"column {self.name}: allowed is empty; leave it out instead")


@dataclass(frozen=True)
class Table:
    """One table: what a partition of it must look like.

    `primary_key` is unique within a partition. `partition_by` names the date column that equals
    the partition in every row; empty for a table without partitions (raw tables).
    """

    name: str
    version: int
    primary_key: tuple[str, ...]
    columns: tuple[Column, ...]
    partition_by: str
    may_be_empty: bool = False

    def __post_init__(self) -> None:
        """Refuse double column names and a key or partition column that is not declared."""
        names = self.column_names
        doubles = sorted({name for name in names if names.count(name) > 1})
        if doubles:
            raise ValueError(f"table {self.name}: declared twice: {', '.join(doubles)}")
        needed = (*self.primary_key, *((self.partition_by,) if self.partition_by else ()))
        unknown = sorted(set(needed) - set(names))
        if unknown:
            raise ValueError(f"table {self.name}: key without a column: {', '.join(unknown)}")

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names in their published order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The column called `name`; KeyError if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name} has no column {name!r}")
