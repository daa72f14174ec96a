"""Suites: what must hold for a partition of a table, as plain data.

Belongs here: `suite_for`, which turns a declaration (`schema.py`) and the business rules of that
table (`rules.py`) into a `Suite` with a version. Does not belong here: how an expectation is
evaluated (`library.py`), the verdict (`audit.py`), any import of Great Expectations, so that a
suite can be shown and hashed without the 3 s which that import costs.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from expectations.rules import CONTACT_PATTERN, DEFAULT_PARAMETERS, RULES, Severity
from expectations.schema import NUMERIC_TYPES, Table

#: Stands for the audited partition in the arguments of an expectation: one suite for all days.
PARTITION: Mapping[str, str] = {"$PARAMETER": "partition"}


@dataclass(frozen=True)
class Expectation:
    """One expectation of a suite: a class of `library.py` or of Great Expectations, by its type.

    `arguments` is JSON text (sorted keys), so that the expectation is hashable and immutable.
    """

    name: str
    type: str
    severity: Severity
    reason: str
    arguments_json: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of the expectation."""
        arguments: dict[str, Any] = json.loads(self.arguments_json)
        return arguments


@dataclass(frozen=True)
class Suite:
    """The expectations of one table, in the order in which failures are told."""

    table: str
    expectations: tuple[Expectation, ...]

    @functools.cached_property
    def version(self) -> str:
        """First 16 hex digits of the SHA-256 over table and expectations: equal if they are."""
        content = [
            [e.name, e.type, e.severity, e.reason, e.arguments_json] for e in self.expectations
        ]
        text = json.dumps([self.table, content], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def suite_for(table: Table, parameters: Mapping[str, int] | None = None) -> Suite:
    """Build the suite of a table: structure from its declaration, then its business rules.

    Args:
        table: the declaration. Business rules are found by `table.name`.
        parameters: settings that rules refer to as `{name}` (`active_window_days`,
            `horizon_days`); what is not given keeps `rules.DEFAULT_PARAMETERS`.

    Raises:
        ValueError: a rule needs a column that the declaration lacks, or a parameter is unknown.
            A rule that silently fell away would be a check that nobody runs.
    """
    given = dict(parameters or {})
    unknown = sorted(set(given) - set(DEFAULT_PARAMETERS))
    if unknown:
        raise ValueError(
            f"suite of {table.name}: unknown parameters {', '.join(unknown)}; "
            f"known are {', '.join(sorted(DEFAULT_PARAMETERS))}"
        )
    settings = tuple(sorted({**DEFAULT_PARAMETERS, **given}.items()))
    return _suite_for(table, settings)


@functools.lru_cache(maxsize=256)
def _suite_for(table: Table, settings: tuple[tuple[str, int], ...]) -> Suite:
    return Suite(table.name, (*_structure(table), *_business_rules(table, dict(settings))))


def _structure(table: Table) -> list[Expectation]:
    """Expectations that follow from the declaration alone; all critical."""
    columns = table.columns
    found: list[Expectation] = []

    def expect(name: str, type_: str, reason: str, **arguments: Any) -> None:
        text = json.dumps(arguments, sort_keys=True, default=_to_json)
        found.append(Expectation(name, type_, "critical", reason, text))

    # A row count is always judged, so that no suite can be empty; 0 is legal only where declared.
    expect(
        "row_count",
        "expect_table_row_count_to_be_between",
        "an empty batch passes every other expectation"
        if not table.may_be_empty
        else "declared as possibly empty",
        min_value=0 if table.may_be_empty else 1,
    )
    expect(
        "columns",
        "expect_columns_to_match_declaration",
        "readers rely on exactly the declared columns, in their order",
        columns=list(table.column_names),
    )
    expect(
        "types",
        "expect_types_to_match_declaration",
        "a retyped column is a new table",
        types={column.name: column.type for column in columns},
    )
    required = [c.name for c in columns if not c.nullable or c.name in table.primary_key]
    if required:
        expect(
            "complete",
            "expect_columns_to_be_complete",
            "columns declared as never null",
            columns=required,
        )
    numeric = [c.name for c in columns if c.type in NUMERIC_TYPES]
    if numeric:
        expect(
            "finite",
            "expect_columns_to_be_finite",
            "NaN and infinity pass every comparison of the library and poison every sum",
            columns=numeric,
        )
    bounds = {
        c.name: [c.minimum, c.maximum]
        for c in columns
        if c.minimum is not None or c.maximum is not None
    }
    if bounds:
        expect(
            "bounds", "expect_columns_to_be_within_bounds", "declared minimum and maximum",
            bounds=bounds,
        )  # fmt: skip
    allowed = {c.name: list(c.allowed) for c in columns if c.allowed is not None}
    if allowed:
        expect("allowed", "expect_columns_to_be_in_sets", "declared values", allowed=allowed)
    if table.primary_key:
        expect(
            "primary_key",
            "expect_key_to_be_unique",
            "one row per key",
            columns=list(table.primary_key),
        )
    if table.partition_by:
        expect(
            "partition",
            "expect_column_to_equal_partition",
            "a row of another day in this partition would overwrite or double it",
            date_column=table.partition_by,
            partition=dict(PARTITION),
        )
    if "customer_key" in table.column_names:
        expect(
            "customer_key",
            "expect_rows_to_satisfy",
            "only the keyed hash of a customer may leave the vault",
            condition="regexp_full_match(customer_key, '[0-9a-f]{32}')",
        )
    texts = [
        c.name
        for c in columns
        if c.type == "string" and c.allowed is None and c.name != "customer_key"
    ]
    if texts and not table.name.startswith("raw_"):
        # Raw tables keep what customers wrote (tickets, reviews); nothing published may.
        expect(
            "no_contact_details",
            "expect_columns_not_to_match_regex",
            "no e-mail address may be published",
            columns=texts,
            regex=CONTACT_PATTERN,
        )
    return found


def _business_rules(table: Table, settings: dict[str, int]) -> list[Expectation]:
    """The rules registered under the name of the table, with settings filled in."""
    found = []
    for rule in RULES.get(table.name, ()):
        missing = [name for name in rule.columns if name not in table.column_names]
        if missing:
            raise ValueError(
                f"rule {rule.name!r} of table {table.name} needs {', '.join(missing)}, which the "
                "declaration lacks: declare the column or change the rule in expectations/rules.py"
            )
        condition = " ".join(rule.condition.split())
        for key, value in settings.items():
            condition = condition.replace("{" + key + "}", str(int(value)))
        found.append(
            Expectation(
                name=rule.name,
                type=f"expect_{rule.scope}_to_satisfy",
                severity=rule.severity,
                reason=rule.reason,
                arguments_json=json.dumps(
                    {"condition": condition, **({"by": list(rule.by)} if rule.by else {})}
                ),
            )
        )
    return found


def _to_json(value: object) -> object:
    """Bounds that JSON has no type for, as text; `library.py` renders both kinds alike."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime.date):
        return value.isoformat()
    raise TypeError(f"cannot write {type(value).__name__} into a suite")
