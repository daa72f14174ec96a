"""`mart/*`: dbt. `lake/*`: the candidates of dbt, published.

What belongs here: one dbt invocation for the days of a run, and the published tables that are dbt
candidates. The SQL is in `dbt_project/`. The mart holds exactly the days asked for last; which
those are, and of which load, is each table's own comment: it goes with the table, whoever replaces
it, so that no day is published that is not there.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from functools import partial
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, dbt_assets

from orchestration.defs.daily import (
    BACKFILL,
    ENGINEERING,
    FRESH,
    RETRY,
    Made,
    Run,
    daily_asset,
    days_of,
    mart_key,
)
from orchestration.defs.sources.assets import raw_key, require_raw
from orchestration.resources.platform import Platform
from orchestration.resources.warehouse import POOL
from orchestration.tables import mart_tables

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from dagster_dbt import DbtProject

    from expectations.schema import Table
    from orchestration.resources.dbt import NodeResult

# Days read from the mart at once: 20 days of 9,000 x 88 are 130 MB.
DAYS_PER_EXPORT = 20

DESCRIPTIONS = {
    "orders": "What became known of orders on each day: the latest state per order as of that day.",
    "order_lines": "What became known of order lines on each day.",
    "deliveries": "What became known of messages to customers on each day.",
    "customer_features": "What was known of each customer of the population at the end of the day.",
    "customer_status": "Every customer known: lifecycle, RFM values, consent, service, contacts.",
    "churn_labels": "Labels that matured at the end of the day, of the snapshot a horizon earlier.",
    "churn_returns": "What became known on each day of customers who came back after they churned.",
}


class Translator(DagsterDbtTranslator):
    """Marts stand directly on raw tables: `raw/orders` -> `mart/customer_features`.

    Staging and intermediate models are dbt's own business and shown in dbt's docs. As assets they
    would more than double the events of a run: SQLite takes about 8 ms each, and 25 models x 2
    events x 30 days are 12 s of a 30-day range.
    """

    def get_asset_spec(
        self, manifest: Mapping[str, Any], unique_id: str, project: "DbtProject | None"
    ) -> dg.AssetSpec:
        """Return dbt's own spec with our key, group, owner, freshness and dependencies."""
        spec = super().get_asset_spec(manifest, unique_id, project)
        node = manifest["nodes"].get(unique_id) or manifest["sources"][unique_id]
        if node["resource_type"] == "source":
            return spec.replace_attributes(key=raw_key(node["name"]))
        return spec.replace_attributes(
            key=dg.AssetKey([node["schema"], node["name"]]),
            deps=[raw_key(name) for name in sources_of(manifest, unique_id)],
            group_name="mart",
            owners=[ENGINEERING],
            freshness_policy=FRESH,
        )


def sources_of(manifest: Mapping[str, Any], unique_id: str) -> list[str]:
    """Return the raw tables that a dbt node is made from, through whatever lies between."""
    seen: set[str] = set()
    waiting = [unique_id]
    while waiting:
        for parent in manifest["parent_map"].get(waiting.pop(), []):
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return sorted(manifest["sources"][name]["name"] for name in seen if name in manifest["sources"])


def mart_assets(
    manifest: Mapping[str, Any], partitions: dg.DailyPartitionsDefinition
) -> list[dg.AssetsDefinition]:
    """Return dbt's assets and the published tables made from them."""

    @dbt_assets(
        manifest=manifest,
        name="mart",
        partitions_def=partitions,
        backfill_policy=BACKFILL,
        dagster_dbt_translator=Translator(),
        pool=POOL,
        retry_policy=RETRY,
        select=" ".join(mart_tables()),
    )
    def mart(
        context: dg.AssetExecutionContext, platform: Platform
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        from orchestration.resources.dbt import DbtError
        from orchestration.resources.lake import NotPublishedError

        days = days_of(context)
        try:
            require_raw(platform)
        except NotPublishedError as error:  # a verdict, which waiting does not change
            raise dg.Failure(str(error), allow_retries=False) from error
        try:
            results = build_mart(platform, days)
        except DbtError as error:  # a failed model or test is a verdict; a lock may pass
            raise dg.Failure(str(error), allow_retries="lock" in str(error)) from error
        context.log.info(
            f"dbt: {len(results)} nodes for {len(days)} days, "
            f"{sum(r.seconds for r in results):.1f} s of SQL"
        )
        yield from _report(results, manifest, context.assets_def)

    return [mart, *(_published(table, partitions) for table in mart_tables().values())]


def build_mart(
    platform: Platform, days: "Sequence[date]", select: Sequence[str] = ()
) -> "list[NodeResult]":
    """Build the mart of `days` in one dbt invocation and note which days it holds, of which load.

    The note is taken away first and written last: a crash in between leaves no day that looks
    built. What does not depend on the days is made once a load. Call it under the pool.
    """
    from orchestration.resources.dbt import keep, kept, mark_of
    from orchestration.resources.warehouse import generation

    built = [name for name in mart_tables() if not select or f"+{name}" in select or name in select]
    with platform.warehouse.connect() as connection:
        _note(connection, built, "null")
        load = generation(connection)
        mark = mark_of(platform.home.shop, load)
        spared = kept(connection, mark)
    results = platform.dbt.build(days, select, exclude=spared)
    with platform.warehouse.connect() as connection:
        keep(connection, results, mark)
        told = json.dumps({"load": load, "days": [day.isoformat() for day in days]})
        _note(connection, built, f"'{told}'")
    return results


def _note(connection: "duckdb.DuckDBPyConnection", names: Sequence[str], note: str) -> None:
    """Write a literal beside the tables of the mart that are there."""
    there = connection.execute(
        "select table_name from duckdb_tables() where schema_name = 'mart'"
    ).fetchall()
    for (name,) in there:
        if name in names:
            connection.execute(f"comment on table mart.{name} is {note}")


def _held(connection: "duckdb.DuckDBPyConnection", name: str) -> dict[date, int]:
    """Return the days that a table of the mart is known to hold, each with its load."""
    row = connection.execute(
        "select comment from duckdb_tables() where schema_name = 'mart' and table_name = ?", [name]
    ).fetchone()
    try:
        told = json.loads(row[0]) if row and row[0] else None
    except json.JSONDecodeError:
        told = None
    if not isinstance(told, dict) or not {"load", "days"} <= told.keys():  # somebody else's comment
        return {}
    return {date.fromisoformat(day): told["load"] for day in told["days"]}


def export(platform: Platform, table: "Table", days: "Sequence[date]") -> "dict[date, Made]":
    """Return the candidates of `days` from the mart. Call it under the pool.

    Raises:
        NotPublishedError: the mart does not hold one of the days.
    """
    from orchestration.resources.lake import NotPublishedError

    with platform.warehouse.connect() as connection:
        held = _held(connection, table.name)
        due = {day: are_rows_due(connection, platform, table, day) for day in days}
    missing = [day.isoformat() for day in days if day not in held]
    if missing:
        raise NotPublishedError(
            f"the mart does not hold {table.name} of {', '.join(missing[:5])}"
            f"{' ...' if len(missing) > 5 else ''}; materialise mart/{table.name} for "
            "those days, in the same run"
        )
    content = platform.warehouse.export_candidates(table, days)
    return {day: Made(content[day], held[day], are_rows_due=due[day]) for day in days}


# Raised when a table says something else of the same facts, or more.
CODE_VERSIONS = {
    "customer_status": "2",  # consents to other purposes
    "deliveries": "2",  # whose arm a message was
    "churn_labels": "2",  # a personal horizon of exactly n days is n, and not n + 1
}

# So many orders in a window, none of them cancelled as an order: somebody bought. Fewer may all
# have been cancelled line by line.
CERTAINLY_BOUGHT = 20


def are_rows_due(
    connection: "duckdb.DuckDBPyConnection", platform: Platform, table: "Table", day: date
) -> bool | None:
    """Return whether an empty partition of `table` would be a fault, judged from raw facts.

    None where the table may be empty on any day (a day without orders is legal).
    """
    shop = platform.home.shop
    if table.name == "customer_status":
        query, values = "select count(*) from raw.customers where occurred_date <= ?", [day]
        least = 1
    elif table.name in ("customer_features", "churn_labels"):
        end = day - timedelta(days=shop.horizon_days if table.name == "churn_labels" else 0)
        query = (
            "select count(*) from raw.orders where _is_current and cancelled_at is null "
            "and occurred_date > ? and occurred_date <= ? "
            "and coalesce(arrived_date, occurred_date) <= ?"
        )
        values = [end - timedelta(days=shop.active_window_days), end, end]
        least = CERTAINLY_BOUGHT
    else:
        return None
    row = connection.execute(query, values).fetchone()
    return bool(row and row[0] >= least)


def _published(table: "Table", partitions: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    @daily_asset(
        table,
        partitions,
        deps=[mart_key(table.name)],
        group="mart",
        owner=ENGINEERING,
        description=DESCRIPTIONS[table.name],
        kinds={"deltalake"},
        opens_warehouse=True,
        code_version=CODE_VERSIONS.get(table.name, "1"),
    )
    def publish(run: Run, day: "date") -> Made:
        return candidate_of(table, run, day)

    return publish


def candidate_of(table: "Table", run: Run, day: date) -> Made:
    """Return the candidate of a day from the mart. Call it under the pool.

    Raises:
        NotPublishedError: the mart does not hold one of the days of the run.
    """
    number = run.days.index(day) // DAYS_PER_EXPORT
    days = run.days[number * DAYS_PER_EXPORT : (number + 1) * DAYS_PER_EXPORT]
    exported: dict[date, Made] = run.once(
        f"export {number}", lambda: export(run.platform, table, days)
    )
    made = exported.pop(day)
    if table.name == "churn_labels":
        made.hand_over = partial(agreement_of, made.frame)
    return made


def agreement_of(labels: "pa.Table") -> dict[str, Any]:
    """Return as metadata how the common and the personal rule agree on the labels of a day."""
    from ml.labels import COMMON, PERSONAL, agreement

    found = agreement(labels.select([COMMON, PERSONAL]).to_pandas())
    metadata: dict[str, Any] = {"rules": dg.MetadataValue.md(found.to_markdown())}
    if found.agreement_share is not None:
        metadata["rule_agreement_share"] = round(found.agreement_share, 4)
    if found.cohen_kappa is not None:
        metadata["rule_cohen_kappa"] = round(found.cohen_kappa, 4)
    return metadata


def _report(
    results: "Sequence[NodeResult]", manifest: Mapping[str, Any], assets: dg.AssetsDefinition
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    translator = Translator()
    checks = {
        (spec.metadata or {}).get("dagster_dbt/unique_id", spec.name): spec.key
        for spec in assets.check_specs
    }
    # Dagster wants the assets of one step in topological order; dbt finishes in any.
    parents = {r.unique_id: manifest["parent_map"].get(r.unique_id, []) for r in results}
    by_id = {r.unique_id: r for r in results}
    for unique_id in TopologicalSorter(parents).static_order():
        node, result = manifest["nodes"].get(unique_id), by_id.get(unique_id)
        if node is None or result is None:
            continue
        if node["resource_type"] == "model":
            key = translator.get_asset_spec(manifest, result.unique_id, None).key
            if key not in assets.keys:  # staging and intermediate models
                continue
            yield dg.MaterializeResult(
                asset_key=key, metadata={"seconds": round(result.seconds, 3)}
            )
        elif node["resource_type"] == "test":
            check = checks.get(result.unique_id) or checks.get(node["name"])
            if check is not None:
                yield dg.AssetCheckResult(
                    asset_key=check.asset_key,
                    check_name=check.name,
                    passed=result.status == "pass",
                    severity=(
                        dg.AssetCheckSeverity.WARN
                        if result.status == "warn"
                        else dg.AssetCheckSeverity.ERROR
                    ),
                    metadata={"failures": result.failures or 0},
                )
