"""A small published table with every type, and one made from it, to drive the real machinery."""

from __future__ import annotations

import datetime
from datetime import UTC, date
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import uuid4

import pandas as pd
import pyarrow.parquet as pq

from expectations.audit import audit_range
from expectations.schema import Column, Table
from expectations.suites import suite_for
from orchestration.resources.catalog import Publication
from orchestration.resources.content import canonical, content_hash, file_sha256
from orchestration.resources.lake import Lake
from orchestration.resources.publishing import Publisher

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

D1, D2, D3 = date(2024, 3, 1), date(2024, 3, 2), date(2024, 3, 3)

THINGS = Table(
    "things",
    1,
    ("snapshot_date", "customer_key"),
    (
        Column("snapshot_date", "date", nullable=False),
        Column("customer_key", "string", nullable=False),
        Column("order_count", "integer", nullable=False, minimum=0),
        Column("revenue_amount", "decimal", nullable=False),
        Column("score", "double", nullable=True, minimum=0, maximum=1),
        Column("is_known", "boolean", nullable=True),
        Column("reason", "string", nullable=True),
        Column("last_seen_at", "timestamp", nullable=True),
    ),
    "snapshot_date",
)

OTHERS = Table(
    "others",
    1,
    ("snapshot_date", "customer_key"),
    (
        Column("snapshot_date", "date", nullable=False),
        Column("customer_key", "string", nullable=False),
        Column("order_count", "integer", nullable=False, minimum=0),
    ),
    "snapshot_date",
)


LEDGER = Table(
    "draws",
    1,
    ("campaign_id", "customer_key"),
    (
        Column("assigned_date", "date", nullable=False),
        Column("campaign_id", "string", nullable=False),
        Column("customer_key", "string", nullable=False),
        Column("arm", "string", nullable=False),
    ),
    "assigned_date",
    may_be_empty=True,
)


def key(number: int) -> str:
    return f"{number:032x}"


def things(day: date, rows: int = 3, orders: int = 1) -> pd.DataFrame:
    """`rows` customers of `day`, each with `orders` orders; every type, with and without nulls."""
    numbers = range(rows)
    return pd.DataFrame(
        {
            "snapshot_date": [day] * rows,
            "customer_key": [key(n) for n in numbers],
            "order_count": [orders] * rows,
            "revenue_amount": [Decimal(n) + Decimal("0.1234") for n in numbers],
            "score": [None if n == 1 else n / rows for n in numbers],
            "is_known": [None if n == 2 else n % 2 == 0 for n in numbers],
            "reason": [None if n == 0 else f"reason {n}" for n in numbers],
            "last_seen_at": [
                None if n == 1 else datetime.datetime(2024, 2, 1, 12, n % 60, tzinfo=UTC)
                for n in numbers
            ],
        }
    )


PLAIN = {"string": "", "integer": 1, "decimal": 0.0, "double": 0.5, "boolean": False}


def filled(table: Table, rows: int, **columns: object) -> pd.DataFrame:
    """Rows of any table: these columns, and something plain in each other one, or nothing."""
    plain = {
        column.name: None if column.nullable else PLAIN.get(column.type) for column in table.columns
    }
    own = {"customer_key": [key(n) for n in range(rows)], **columns}
    return pd.DataFrame({**plain, **own}, index=range(rows))[list(table.column_names)]


def bad_things(day: date) -> pd.DataFrame:
    """What the audit must refuse: a count below zero."""
    return things(day, orders=-1)


def others(day: date, rows: int = 3) -> pd.DataFrame:
    return things(day, rows)[list(OTHERS.column_names)]


def draws(day: date, numbers: range, arm: str = "control") -> pd.DataFrame:
    """Rows of the ledger: these customers, drawn on `day`."""
    return pd.DataFrame(
        {
            "assigned_date": [day] * len(numbers),
            "campaign_id": ["spring"] * len(numbers),
            "customer_key": [key(n) for n in numbers],
            "arm": [arm] * len(numbers),
        }
    )


def facts_of(
    table: Table,
    day: date,
    content: pa.Table,
    *,
    generation: int = 1,
    inputs: dict[str, str] | None = None,
) -> Publication:
    """What a publication of `content` says of itself."""
    return Publication(
        table.name,
        day.isoformat(),
        -1,
        content_hash(content),
        content.num_rows,
        generation,
        inputs or {},
        "run",
    )


def put(
    lake: Lake,
    table: Table,
    day: date,
    frame: pd.DataFrame,
    *,
    generation: int = 1,
    inputs: dict[str, str] | None = None,
) -> int:
    """Write a partition the way the publisher does, without its gate; return the version."""
    content = canonical(frame, table)
    facts = facts_of(table, day, content, generation=generation, inputs=inputs)
    return lake.replace(table, {day: (file_of(lake, content), facts)})


def file_of(lake: Lake, content: pa.Table) -> Path:
    """Write rows as a file that the lake can take in."""
    path = lake.root / f"{uuid4().hex}.parquet"
    pq.write_table(content, path)
    return path.rename(path.with_name(f"{file_sha256(path)}.parquet"))


def publisher_of(staging: Path, lake: Lake) -> Publisher:
    """The publisher as `Platform` makes it: the real audit, without its web pages."""
    return Publisher(
        staging,
        lake,
        auditor=lambda batches, shown: audit_range(batches, shown=shown),
        suite_version=lambda table: suite_for(table).version,
        finish=lambda: None,
    )
