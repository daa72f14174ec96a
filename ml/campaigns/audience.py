"""Whom a campaign is for: conditions over published columns, without SQL.

What belongs here: one condition, what it may compare with what, which customers meet it. What does
not: which tables there are (the caller says what each field is), who is eligible (eligibility.py).

A value that is not known meets no condition, `!=` and `not in` included; `missing` asks for it.
Whom personal attributes put at risk nobody may ask for: it tells of gender, age or country.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from datetime import date
from typing import Annotated, Literal

import pandas as pd
from pydantic import Field, ValidationInfo, model_validator

from ml.documents import Document

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in", "not in", "missing"]
Kind = Literal["number", "text", "boolean", "date"]
Value = bool | int | float | date | str

_ORDERED = ("<", "<=", ">", ">=")
_TYPES: dict[Kind, tuple[type, ...]] = {
    "number": (int, float),
    "text": (str,),
    "boolean": (bool,),
    "date": (date,),
}


class Condition(Document):
    """One condition.

    With the context `fields` (name -> kind) the field must be one of them; with the context
    `values` (name -> legal values) an equality must ask for one of those.
    """

    field: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    operator: Operator
    value: Value | tuple[Value, ...]

    @model_validator(mode="after")
    def _comparable(self, info: ValidationInfo) -> Condition:
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        is_list = isinstance(self.value, tuple)
        if is_list != (self.operator in ("in", "not in")):
            wanted = "one value" if is_list else "a list of values"
            raise ValueError(f"{self.field} {self.operator}: needs {wanted}")
        if not values:
            raise ValueError(f"{self.field} {self.operator}: the list is empty")
        if self.operator == "missing":
            if not isinstance(self.value, bool):
                raise ValueError(f"{self.field} missing: the value is true or false")
            kinds = None
        else:
            kinds = {_kind(value) for value in values}
        # A registered file was read by the rules of its time, and stands.
        if not (fields := (info.context or {}).get("fields")):
            return self
        _refuse_personal(self.field, values)
        if self.field not in fields:
            raise ValueError(f"{self.field!r} {unknown_field(self.field, fields)}")
        kind: Kind = fields[self.field]
        if kinds is not None and kinds != {kind}:
            raise ValueError(
                f"{self.field} is a {kind}, and is compared with {', '.join(sorted(kinds))}"
            )
        if self.operator in _ORDERED and kind in ("text", "boolean"):
            raise ValueError(f"{self.field} is a {kind}, which has no order; use =, != or in")
        legal = (info.context or {}).get("values", {}).get(self.field)
        unknown = [str(v) for v in values if legal is not None and v not in legal]
        if unknown and self.operator in ("=", "!=", "in", "not in"):
            raise ValueError(
                f"{self.field} is never {', '.join(unknown)}; it is {', '.join(map(str, legal))}"
            )
        return self

    def holds(self, values: pd.Series) -> pd.Series:
        """Return which of `values` meet the condition, as booleans without nulls."""
        known = values.notna()
        if self.operator == "missing":
            return ~known if self.value else known
        first = self.value[0] if isinstance(self.value, tuple) else self.value
        kind = _kind(first)
        left: pd.Series = values[known]
        if kind == "number":
            left = left.astype("float64")
        elif kind == "date":
            left = pd.to_datetime(left)
        elif kind == "boolean":
            left = left.astype(bool)
        if isinstance(self.value, tuple):
            right = [pd.Timestamp(v) if kind == "date" else v for v in self.value]
            met = left.isin(right)
            met = met if self.operator == "in" else ~met
        else:
            value = pd.Timestamp(self.value) if kind == "date" else self.value
            met = {
                "=": left.eq,
                "!=": left.ne,
                "<": left.lt,
                "<=": left.le,
                ">": left.gt,
                ">=": left.ge,
            }[self.operator](value)
        return met.reindex(values.index, fill_value=False).astype(bool)


def meets(conditions: Sequence[Condition], customers: pd.DataFrame) -> pd.Series:
    """Return which rows of `customers` meet every condition; all where there is none.

    Raises KeyError where the frame lacks a field.
    """
    keep = pd.Series(True, index=customers.index)
    for condition in conditions:
        keep &= condition.holds(customers[condition.field])
    return keep


def _kind(value: Value) -> Kind:
    if isinstance(value, bool):
        return "boolean"
    return next(kind for kind, types in _TYPES.items() if isinstance(value, types))


def unknown_field(field: str, fields: Collection[str]) -> str:
    """What to say of a field that is none of `fields`."""
    near = difflib.get_close_matches(field, list(fields), n=3, cutoff=0.5)
    return "is no column of customers that may be asked for" + (
        f"; near it: {', '.join(near)}" if near else ""
    )


def _refuse_personal(field: str, values: Sequence[Value]) -> None:
    if not field.startswith("reason"):
        return
    from ml.reasons import PERSONAL  # scikit-learn comes with it

    if PERSONAL in values:
        raise ValueError(
            f"{field}: nobody is chosen, or left out, because {PERSONAL!r}; it would tell of "
            "gender, age or country"
        )
