"""The dbt project under test: compiled by dbt once per set of variables, run on many worlds.

Belongs here: how tests run the project. A dbt invocation costs one to three seconds whatever the
data, so properties over many worlds run the SQL that dbt compiled, in dbt's own order, on a DuckDB
in memory; `test_build.py` proves that a real `dbt build` gives the same rows. Does not belong here:
worlds (raw_world) or expectations.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
from raw_world import World, write_raw

PROJECT = Path(__file__).resolve().parents[2] / "dbt_project"

PRIMARY_KEYS: dict[str, list[str]] = {
    "customer_features": ["snapshot_date", "customer_key"],
    "customer_status": ["snapshot_date", "customer_key"],
    "churn_labels": ["matured_date", "customer_key"],
    "churn_returns": ["snapshot_date", "customer_key", "returned_date"],
    "orders": ["snapshot_date", "order_id"],
    "order_lines": ["snapshot_date", "order_id", "line_number"],
    "deliveries": ["snapshot_date", "campaign_id", "customer_key", "channel", "sent_at"],
}

DEFAULT_VARS: dict[str, Any] = {
    "snapshot_dates": ["2025-02-01"],
    "shop_timezone": "Europe/Berlin",
    "active_window_days": 180,
    "horizon_days": 90,
    "history_start_date": "2024-01-01",
    "consent_without_records": "denied",
}


@dataclass(frozen=True)
class Model:
    """One model as dbt compiled it."""

    schema: str
    name: str
    is_view: bool
    sql: str


class Dbt:
    """dbt in this process, on a target folder of its own and the database `warehouse`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warehouse = folder / "warehouse.duckdb"
        self._compiled: dict[str, list[Model]] = {}
        self._manifest: Any = None

    def invoke(self, *arguments: str, variables: Mapping[str, Any] | None = None) -> Any:
        """Run one dbt command and return its result; the warehouse is closed afterwards.

        The project is parsed once: every other list of variables would make dbt parse it again.
        """
        if self._manifest is None:
            self._manifest = self._invoke(["parse"], DEFAULT_VARS).result
        return self._invoke(list(arguments), variables)

    def _invoke(self, arguments: list[str], variables: Mapping[str, Any] | None) -> Any:
        from dbt.adapters.duckdb.connections import DuckDBConnectionManager
        from dbt.adapters.factory import reset_adapters
        from dbt.cli.main import dbtRunner

        flags = ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)]
        flags += ["--target-path", str(self.folder / "target")]
        flags += ["--log-path", str(self.folder / "logs")]
        if variables is not None:
            flags += ["--vars", json.dumps(variables)]
        with _environment(HOLDFAST_WAREHOUSE=str(self.warehouse)):
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    return dbtRunner(manifest=self._manifest).invoke(
                        ["--quiet", *arguments, *flags]
                    )
            finally:
                # Resetting the adapters leaves the manager's environment, and so the file, open.
                reset_adapters()
                if DuckDBConnectionManager._ENV is not None:
                    DuckDBConnectionManager.env().close()
                DuckDBConnectionManager.close_all_connections()

    def compiled(self, **changes: Any) -> list[Model]:
        """Return the models in dbt's order, compiled under the default variables with `changes`."""
        variables = {**DEFAULT_VARS, **changes}
        text = json.dumps(variables, sort_keys=True)
        if text not in self._compiled:
            done = self.invoke("compile", "--select", "resource_type:model", variables=variables)
            assert done.success, done.exception
            nodes = {
                result.node.unique_id: result.node
                for result in done.result.results
                if result.node.resource_type == "model"
            }
            self._compiled[text] = [
                Model(
                    nodes[key].schema,
                    nodes[key].name,
                    nodes[key].config.materialized == "view",
                    nodes[key].compiled_code,
                )
                for key in _in_order(nodes)
            ]
        return self._compiled[text]

    def run(
        self,
        world: World,
        threads: int = 1,
        shuffle_seed: int | None = None,
        faults: Mapping[str, Mapping[str, str]] | None = None,
        **changes: Any,
    ) -> dict[str, pd.DataFrame]:
        """Return the marts of a world, each sorted by its primary key.

        `faults` replaces pieces of a model's SQL by others, to see whether a test would notice; one
        day and many say the same in different words, so one of the pieces must be there.

        The requested days are in one model only (a test holds that), so another list of days needs
        no other compilation; but one day is built by other SQL than many (`is_one_day`).
        """
        with self.loaded(world, threads, shuffle_seed) as connection:
            return self.build(connection, faults, **changes)

    @contextlib.contextmanager
    def loaded(
        self, world: World, threads: int = 1, shuffle_seed: int | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a warehouse in memory that holds a world, to be built more than once."""
        with duckdb.connect(config={"threads": threads}) as connection:
            connection.execute("ATTACH ':memory:' AS warehouse")
            connection.execute("USE warehouse")
            connection.execute("SET timezone = 'UTC'")
            write_raw(connection, world, shuffle_seed)
            yield connection

    def build(
        self,
        connection: duckdb.DuckDBPyConnection,
        faults: Mapping[str, Mapping[str, str]] | None = None,
        **changes: Any,
    ) -> dict[str, pd.DataFrame]:
        """Build every model in a loaded warehouse and return the marts, as `run` does."""
        days = changes.pop("snapshot_dates", DEFAULT_VARS["snapshot_dates"])
        if len(set(days)) > 1:
            changes["snapshot_dates"] = ["2025-02-01", "2025-02-02"]
        for model in self.compiled(**changes):
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {model.schema}")
            kind = "VIEW" if model.is_view else "TABLE"
            sql = model.sql
            if model.name == "int_snapshot_dates":
                sql = " UNION ALL ".join(f"SELECT DATE '{d}' AS snapshot_date" for d in days)
            if faults and model.name in faults:
                assert any(right in sql for right in faults[model.name]), f"not in {model.name}"
                for right, wrong in faults[model.name].items():
                    sql = sql.replace(right, wrong)
            connection.execute(f"CREATE OR REPLACE {kind} {model.schema}.{model.name} AS {sql}")
        return read_marts(connection)


def read_marts(connection: duckdb.DuckDBPyConnection) -> dict[str, pd.DataFrame]:
    """Return every mart as a frame of Python values, sorted by its primary key."""
    marts = {}
    for name, key in PRIMARY_KEYS.items():
        cursor = connection.execute(f"SELECT * FROM mart.{name} ORDER BY {', '.join(key)}")
        columns = [column[0] for column in cursor.description or []]
        marts[name] = pd.DataFrame(cursor.fetchall(), columns=columns, dtype=object)
    return marts


def assert_same_rows(
    left: Mapping[str, pd.DataFrame],
    right: Mapping[str, pd.DataFrame],
    tables: Sequence[str] = tuple(PRIMARY_KEYS),
) -> None:
    """Fail unless the tables are equal to the last digit."""
    for name in tables:
        pd.testing.assert_frame_equal(
            left[name].reset_index(drop=True),
            right[name].reset_index(drop=True),
            check_exact=True,
            obj=name,
        )


def on_day(marts: Mapping[str, pd.DataFrame], day: date) -> dict[str, pd.DataFrame]:
    """Return the rows of one requested day."""
    return {
        name: frame[frame[PRIMARY_KEYS[name][0]] == day].reset_index(drop=True)
        for name, frame in marts.items()
    }


def _in_order(nodes: Mapping[str, Any]) -> list[str]:
    """Return node ids so that each stands after what it reads."""

    @cache
    def depth(key: str) -> int:
        parents = [parent for parent in nodes[key].depends_on.nodes if parent in nodes]
        return 1 + max(map(depth, parents), default=0)

    return sorted(nodes, key=lambda key: (depth(key), key))


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
