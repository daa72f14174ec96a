"""`landing/*`: what the shop delivers. `raw/*`: the same, typed, pseudonymised and accounted for.

What belongs here: the two layers of assets, and `take_in`, which the history job shares. How a
file is read is in `loading.py`; what a table must look like is in `contract.yaml`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from orchestration.defs.daily import BACKFILL, ENGINEERING, FRESH, RETRY, days_of
from orchestration.defs.sources.contract import (
    Contract,
    ContractError,
    SourceTable,
    load_contract,
    raw_columns,
)
from orchestration.resources.platform import Platform
from orchestration.resources.warehouse import POOL

if TYPE_CHECKING:
    import pandas as pd

    from expectations.schema import ColumnType, Table
    from orchestration.defs.sources.loading import LoadReport

RAW_TYPES: "dict[str, ColumnType]" = {
    "VARCHAR": "string",
    "INTEGER": "integer",
    "DECIMAL(18,4)": "decimal",
    "TIMESTAMP": "timestamp",
    "DATE": "date",
    "BOOLEAN": "boolean",
}


def landing_key(name: str) -> dg.AssetKey:
    """Return the asset key of a landing folder."""
    return dg.AssetKey(["landing", name])


def raw_key(name: str) -> dg.AssetKey:
    """Return the asset key of a raw table."""
    return dg.AssetKey(["raw", name])


@dataclass(frozen=True)
class TakenIn:
    """What one load did."""

    report: "LoadReport"
    accounting: "pd.DataFrame"
    generation: int
    refused: dict[str, str]  # raw table -> why its audit failed


def raw_table(table: SourceTable) -> "Table":
    """Return the declaration of `raw.<table>`, current rows only, as the audit needs it."""
    from expectations.schema import Column
    from expectations.schema import Table as Declaration

    required = {c.name: c for c in table.columns if c.required}
    columns = []
    for column in raw_columns(table):
        if column.name.startswith("_"):
            continue
        source = next((c for c in table.columns if c.name == column.name), None)
        numeric = column.type in ("INTEGER", "DECIMAL(18,4)")
        columns.append(
            Column(
                column.name,
                RAW_TYPES[column.type],
                nullable=column.name not in required and column.name not in table.raw_key,
                minimum=source.minimum if source and numeric else None,
                maximum=source.maximum if source and numeric else None,
                allowed=source.allowed or None if source else None,
                description=column.description,
            )
        )
    return Declaration(
        f"raw_{table.name}",
        1,
        table.raw_key,
        tuple(columns),
        partition_by="",
        may_be_empty=not table.required,
    )


def take_in(platform: Platform, run_id: str, log: Callable[[str], None]) -> TakenIn:
    """Load every new landing file, account for every row, and audit what the tables now hold.

    Call it under the pool: it opens the warehouse.

    Raises:
        ContractError: the landing folder as a whole is unusable (a required table is missing).
    """
    from orchestration.defs.sources import loading
    from orchestration.resources.warehouse import generation

    contract, home = load_contract(), platform.home
    with platform.warehouse.connect() as connection:
        report = loading.load_landing(
            connection,
            home.landing,
            contract,
            platform.vault,
            home.shop.shop_timezone,
            platform.settings.max_bad_share,
            on_progress=log,
            after=platform.catalog.generation(),
        )
        accounting = loading.accounting(connection)
        loading.check_accounting(accounting)
        after = generation(connection)
        platform.catalog.note_loads(
            connection.execute(
                "select load_sequence, file, strftime(restated_from_date, '%Y-%m-%d') "
                "from ops.load_files where load_sequence is not null"
            ).fetchall()
        )
        refused = {}
        for table in contract.tables:
            if _is_audited(platform, table, after):
                continue  # nothing new since the last verdict of this suite
            reason = _audit(platform, connection, table, run_id, after)
            if reason:
                refused[table.name] = reason
    return TakenIn(report, accounting, after, refused)


def _audit(
    platform: Platform, connection: Any, table: SourceTable, run_id: str, generation: int
) -> str | None:
    import pyarrow as pa

    from expectations.audit import audit
    from orchestration.resources.catalog import Audit

    declaration = raw_table(table)
    names = ", ".join(declaration.column_names)
    content = (
        connection.execute(f"select {names} from raw.{table.name} where _is_current")
        .to_arrow_reader(100_000)
        .read_all()
    )
    for number, column in enumerate(declaration.columns):
        if column.type == "timestamp":  # stored as UTC without a zone
            values = (
                content.column(number).cast(pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))
            )
            content = content.set_column(number, column.name, values)
    result = audit(content, declaration, date.min, docs=platform.docs)
    platform.catalog.record_audits(
        [
            Audit(
                declaration.name,
                "all",
                "",
                str(generation),
                result.suite_version,
                result.expected,
                result.evaluated,
                result.passed,
                tuple(str(f.message) for f in result.failures),
                run_id,
            )
        ]
    )
    return None if result.passed else "; ".join(str(f.message) for f in result.failures)


def _is_audited(platform: Platform, table: SourceTable, generation: int) -> bool:
    """Return whether the raw table of this load has passed the suite in force.

    A load that was killed before its audit has a newer generation than the newest verdict.
    """
    from expectations.suites import suite_for

    audit = platform.catalog.latest_audit(f"raw_{table.name}", "all")
    return (
        audit is not None
        and audit.passed
        and audit.content_hash == str(generation)
        and audit.suite_version == suite_for(raw_table(table)).version
    )


def require_raw(platform: Platform) -> None:
    """Refuse to go on from raw tables that failed their audit or had none since their last load.

    Call it under the pool: it opens the warehouse.

    Raises:
        NotPublishedError: naming the tables and the failed expectations.
    """
    from expectations.suites import suite_for
    from orchestration.defs.sources.loading import held_columns
    from orchestration.resources.lake import NotPublishedError
    from orchestration.resources.warehouse import generation

    with platform.warehouse.connect() as connection:
        loaded = generation(connection)
        held = held_columns(connection)
    for table in load_contract().tables:
        names = dict(held.get(table.name, []))
        absent = [c.name for c in raw_columns(table) if c.name not in names]
        if absent and held:
            raise NotPublishedError(
                f"raw.{table.name} was made by an earlier version, without {', '.join(absent)}; "
                "materialise raw/*, which adds what is missing"
            )
    bad = []
    for table in load_contract().tables:
        audit = platform.catalog.latest_audit(f"raw_{table.name}", "all")
        in_force = suite_for(raw_table(table)).version
        if audit is None or (audit.content_hash, audit.suite_version) != (str(loaded), in_force):
            raise NotPublishedError(
                f"raw.{table.name} was not audited since load {loaded} by the suite in force; "
                "materialise raw/*"
            )
        if not audit.passed:
            bad.append(f"raw.{table.name} (audit {audit.id}): {'; '.join(audit.failures)}")
    if bad:
        raise NotPublishedError("the raw tables failed their audit: " + " | ".join(bad))


def landing_assets(contract: Contract) -> list[dg.AssetSpec]:
    """Return one external asset per table of the contract: files that the shop puts there."""
    return [
        dg.AssetSpec(
            landing_key(table.name),
            group_name="sources",
            owners=[ENGINEERING],
            kinds={"file"},
            description=f"{table.description} Files in landing/{table.name}/, CSV or Parquet"
            f"{'' if table.required else '; optional'}.",
        )
        for table in contract.tables
    ]


def raw_assets(contract: Contract, partitions: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """Return the raw tables as one step: every new file is loaded once, whatever the day asked.

    The tables are not partitioned; the asset is, by business day, so that what came in for a day
    is told where the day is looked at.
    """

    @dg.multi_asset(
        name="raw",
        specs=[
            dg.AssetSpec(
                raw_key(table.name),
                deps=[landing_key(table.name)],
                partitions_def=partitions,
                group_name="sources",
                owners=[ENGINEERING],
                kinds={"duckdb"},
                freshness_policy=FRESH,
                code_version=str(contract.version),
                description=table.description,
                metadata={
                    "dagster/column_schema": dg.TableSchema(
                        columns=[
                            dg.TableColumn(c.name, c.type, c.description)
                            for c in raw_columns(table)
                        ]
                    )
                },
            )
            for table in contract.tables
        ],
        check_specs=[
            dg.AssetCheckSpec(
                name,
                asset=raw_key(table.name),
                blocking=True,
                description=text,
            )
            for table in contract.tables
            for name, text in (
                ("accounting", "rows in = loaded + quarantined + duplicates + superseded"),
                ("audit", "Great Expectations on the current rows"),
            )
        ],
        backfill_policy=BACKFILL,
        pool=POOL,
        retry_policy=RETRY,
    )
    def raw(
        context: dg.AssetExecutionContext, platform: Platform
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        from orchestration.resources.vault import VaultError

        days = days_of(context)
        try:
            taken = take_in(platform, context.run_id, context.log.info)
        except (ContractError, VaultError) as error:  # what waiting does not mend is not retried
            raise dg.Failure(str(error), allow_retries=False) from error
        for table in contract.tables:
            key = raw_key(table.name)
            rows = taken.accounting[taken.accounting["table"] == table.name]
            for day, metadata in _by_day(rows, days).items():
                context.add_asset_metadata(metadata, asset_key=key, partition_key=day.isoformat())
            yield dg.MaterializeResult(
                asset_key=key, metadata={"generation": taken.generation, **_totals(rows)}
            )
            failed = [f for f in taken.report.failed if f.table == table.name]
            yield dg.AssetCheckResult(
                asset_key=key,
                check_name="accounting",
                passed=not failed,
                description="; ".join(str(f) for f in failed) or None,
                metadata=_totals(rows),
            )
            refused = taken.refused.get(table.name)
            yield dg.AssetCheckResult(
                asset_key=key, check_name="audit", passed=refused is None, description=refused
            )
        raise_for(taken)

    return raw


def raise_for(taken: TakenIn) -> None:
    """Fail a run whose load refused a file or failed an audit; what loaded well stays loaded.

    Raises:
        dg.Failure: naming each file and table.
    """
    problems = [str(f) for f in taken.report.failed]
    problems += [f"raw.{name}: {reason}" for name, reason in taken.refused.items()]
    if problems:
        raise dg.Failure("\n".join(problems), allow_retries=False)


COUNTS = ("rows_in", "loaded", "quarantined", "duplicates", "superseded")


def _totals(rows: "pd.DataFrame") -> dict[str, int]:
    return {name: int(rows[name].sum()) for name in COUNTS}


def _by_day(rows: "pd.DataFrame", days: Sequence[date]) -> dict[date, dict[str, Any]]:
    """Return the accounting of each business day, and flag a day without rows (it is legal)."""
    found: dict[Any, pd.DataFrame] = dict(iter(rows.groupby("business_date")))
    by_day = {}
    for day in days:
        part = found.get(day, rows.head(0))
        counts = _totals(part)
        by_day[day] = {
            **counts,
            "dagster/partition_row_count": counts["loaded"],
            "files": int(part["file"].nunique()),
            "is_empty_day": counts["rows_in"] == 0,
        }
    return by_day
