"""The source contract as Python objects, and what follows from it for the raw tables.

Here belongs the reading of contract.yaml and pure functions of it: names and types of raw columns,
dbt's source file. Reading or writing data does not belong here (landing.py, loading.py), and no
rule about a column may be written down anywhere but in contract.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

RAW_SCHEMA = "raw"
CUSTOMER_ID = "customer_id"
CUSTOMER_KEY = "customer_key"
SUPERSEDED = "_superseded_date"
ARRIVED_AT = "arrived_at"

#: Type in the contract -> type in DuckDB.
DUCKDB_TYPES = {
    "string": "VARCHAR",
    "integer": "INTEGER",
    "decimal": "DECIMAL(18,4)",
    "timestamp": "TIMESTAMP",
}

#: Identifiers whose presence, but never whose value, is visible outside the vault.
_PRESENCE = {
    "email": ("has_email", "Whether the vault has an e-mail address."),
    "phone": ("has_phone", "Whether the vault has a phone number."),
}


class ContractError(Exception):
    """The contract itself, or a landing folder as a whole, is not as it must be."""


@dataclass(frozen=True)
class SourceColumn:
    """One column that a shop may deliver."""

    name: str
    type: str
    description: str
    required: bool = False
    identifier: bool = False
    outcome: bool = False
    known_with: str | None = None
    allowed: tuple[str, ...] = ()
    pattern: str | None = None
    minimum: Decimal | None = None
    maximum: Decimal | None = None
    default: str | None = None


@dataclass(frozen=True)
class SourceTable:
    """One table that a shop must (`required`) or may deliver.

    `columns` ends with `arrived_at`, which any table may carry. `event_time` is the column of the
    business time, or None where the table has none.
    """

    name: str
    description: str
    required: bool
    primary_key: tuple[str, ...]
    event_time: str | None
    columns: tuple[SourceColumn, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of all columns in the order of the contract."""
        return tuple(column.name for column in self.columns)

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Names of the columns without which a file is refused."""
        return tuple(column.name for column in self.columns if column.required)

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Timestamps of what became of a row later."""
        return tuple(column.name for column in self.columns if column.outcome)

    @property
    def raw_key(self) -> tuple[str, ...]:
        """The primary key as the raw table has it: `customer_key` in place of `customer_id`."""
        return tuple(CUSTOMER_KEY if name == CUSTOMER_ID else name for name in self.primary_key)

    def column(self, name: str) -> SourceColumn:
        """The column called `name`; KeyError where the contract has none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"the contract has no column {name} in {self.name}")


@dataclass(frozen=True)
class Contract:
    """All tables, in the order in which they are loaded."""

    version: int
    tables: tuple[SourceTable, ...]

    def table(self, name: str) -> SourceTable:
        """The table called `name`; KeyError where the contract has none."""
        for table in self.tables:
            if table.name == name:
                return table
        raise KeyError(f"the contract has no table {name}")


@dataclass(frozen=True)
class RawColumn:
    """One column of a raw table in DuckDB."""

    name: str
    type: str
    description: str


@cache
def load_contract() -> Contract:
    """The contract of this version of Holdfast.

    Raises ContractError, naming table and column, where contract.yaml contradicts itself.
    """
    import yaml

    text = Path(__file__).with_name("contract.yaml").read_text(encoding="utf-8")
    return parse_contract(yaml.safe_load(text))


def parse_contract(document: dict[str, Any]) -> Contract:
    """Build a Contract from the parsed YAML document; raises ContractError where it is wrong."""
    tables = tuple(_table(name, body) for name, body in document["tables"].items())
    return Contract(version=int(document["version"]), tables=tables)


def raw_columns(table: SourceTable) -> tuple[RawColumn, ...]:
    """Columns of `raw.<table>`: what the contract says, without identifiers, plus provenance.

    `customer_id` becomes `customer_key`; `email` and `phone` become `has_email` and `has_phone`;
    other identifiers are left out.
    """
    return (*row_columns(table), *_AMONG_VERSIONS)


def row_columns(table: SourceTable) -> tuple[RawColumn, ...]:
    """The part of `raw_columns` that a row has by itself, whatever other versions its key has."""
    return (*content_columns(table), *_DERIVED)


def content_columns(table: SourceTable) -> tuple[RawColumn, ...]:
    """The part of `raw_columns` that comes from the file; two rows equal in it are duplicates."""
    result = []
    for column in table.columns:
        if column.name == CUSTOMER_ID:
            result.append(
                RawColumn(CUSTOMER_KEY, "VARCHAR", "Pseudonym of the customer (HMAC of the id).")
            )
        elif column.identifier:
            if column.name in _PRESENCE:
                name, description = _PRESENCE[column.name]
                result.append(RawColumn(name, "BOOLEAN", description))
        else:
            result.append(RawColumn(column.name, DUCKDB_TYPES[column.type], column.description))
    return tuple(result)


def dbt_sources_yaml(contract: Contract) -> str:
    """Text of dbt_project/models/staging/_sources.yml: every raw table and column, described."""
    import yaml

    tables = [
        {
            "name": table.name,
            "description": table.description
            + ("" if table.required else " Optional: empty where the shop delivers none."),
            "columns": [
                {
                    "name": column.name,
                    "description": column.description,
                    "data_type": column.type.lower(),
                }
                for column in raw_columns(table)
            ],
        }
        for table in contract.tables
    ]
    source = {
        "name": RAW_SCHEMA,
        "schema": RAW_SCHEMA,
        "description": "What the shop delivered, every version of it; written by the loader only.",
        "tables": tables,
    }
    head = "# Generated from the source contract by dbt_sources_yaml(); do not edit.\n"
    body = yaml.safe_dump(
        {"version": 2, "sources": [source]}, sort_keys=False, allow_unicode=True, width=100
    )
    return head + body


_DERIVED = (
    RawColumn("occurred_date", "DATE", "Shop day of the business time; empty where it has none."),
    RawColumn("arrived_date", "DATE", "Shop day of arrived_at; empty where the source says none."),
    RawColumn("_file_id", "INTEGER", "File that the row came from (ops.load_files)."),
    RawColumn("_line", "INTEGER", "Line of that CSV file, or row of that Parquet file, from 1."),
)

_AMONG_VERSIONS = (
    RawColumn("_is_current", "BOOLEAN", "Whether this is the latest version of its key."),
    RawColumn(SUPERSEDED, "DATE", "First day on which a later version was known; empty for none."),
)


def _table(name: str, body: dict[str, Any]) -> SourceTable:
    columns = tuple(_column(name, key, value) for key, value in body["columns"].items())
    arrived = SourceColumn(ARRIVED_AT, "timestamp", "When the row became known; empty if unsaid.")
    table = SourceTable(
        name=name,
        description=" ".join(body["description"].split()),
        required=bool(body["required"]),
        primary_key=tuple(body["primary_key"]),
        event_time=body["event_time"],
        columns=(*columns, arrived),
    )
    for column in table.columns:
        if column.known_with is not None and column.known_with not in table.outcomes:
            raise ContractError(f"{name}.{column.name}: {column.known_with} is not an outcome")
    unkeyed = [
        key
        for key in table.primary_key
        if not table.column(key).required and table.column(key).default is None
    ]
    if unkeyed:
        # a key that may be empty cannot tell two rows apart
        raise ContractError(
            f"{name}: key columns must be required, or have a default: {sorted(unkeyed)}"
        )
    if table.event_time is not None and (
        table.event_time not in table.required_columns
        or table.column(table.event_time).type != "timestamp"
    ):
        raise ContractError(f"{name}: event_time must be a required timestamp: {table.event_time}")
    return table


def _column(table: str, name: str, body: dict[str, Any]) -> SourceColumn:
    known = {"type", "description", "required", "identifier", "outcome", "known_with", "allowed"}
    known |= {"min", "max", "pattern", "default"}
    if unknown := set(body) - known:
        raise ContractError(f"{table}.{name}: unknown properties {sorted(unknown)}")
    if body["type"] not in DUCKDB_TYPES:
        raise ContractError(f"{table}.{name}: unknown type {body['type']}")
    if body.get("outcome") and body["type"] != "timestamp":
        raise ContractError(f"{table}.{name}: an outcome must be a timestamp")
    for text in ("pattern", "default"):
        if text in body and body["type"] != "string":
            raise ContractError(f"{table}.{name}: only a string has a {text}")
    if "default" in body and (body.get("required") or body.get("identifier")):
        raise ContractError(f"{table}.{name}: what is required, or names a person, has no default")

    def number(key: str) -> Decimal | None:
        return Decimal(str(body[key])) if key in body else None

    return SourceColumn(
        name=name,
        type=body["type"],
        description=body["description"],
        required=bool(body.get("required", False)),
        identifier=bool(body.get("identifier", False)),
        outcome=bool(body.get("outcome", False)),
        known_with=body.get("known_with"),
        allowed=tuple(body.get("allowed", ())),
        pattern=body.get("pattern"),
        minimum=number("min"),
        maximum=number("max"),
        default=body.get("default"),
    )
