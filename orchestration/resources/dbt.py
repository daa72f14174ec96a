"""dbt, run inside this process.

What belongs here: the variables that dbt receives, validated before they reach SQL; one invocation
for any list of days; which tables still hold from the last one; the manifest that the definitions
are made from. What does not: SQL of the mart.

Why in-process: a `dbt` subprocess costs 5 to 6 s a run, most of it imports and parsing, and
`dagster_dbt` asks `dbt --version` at every start, which calls a package index
(docs/decisions/0010-dbt-in-process.md has the paired measurement).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.resources.home import file_lock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import duckdb

    from orchestration.resources.home import Home, Shop

PROJECT = Path(__file__).resolve().parents[2] / "dbt_project"
MANIFEST = PROJECT / "target" / "manifest.json"

# What dbt sees when it only parses. Parsing must not depend on the day: a changed variable makes
# dbt throw its partial parse away (2-4 s).
PARSE_VARS: dict[str, Any] = {
    "snapshot_dates": ["2000-01-01"],
    "shop_timezone": "UTC",
    "active_window_days": 180,
    "horizon_days": 90,
    "history_start_date": "2000-01-01",
    "consent_without_records": "denied",
}


# Tables of all that was loaded, whatever days are asked for: made once a load
# (docs/decisions/0020-states-are-made-once-a-load.md).
KEPT = ("int_consents", "int_order_lines", "int_orders", "int_returns")


class DbtError(Exception):
    """dbt failed; the message names the nodes and what dbt said of each."""


@dataclass(frozen=True)
class NodeResult:
    """What became of one dbt node."""

    unique_id: str
    status: str  # success, pass, warn, error, fail, skipped
    seconds: float
    failures: int | None
    message: str


def dbt_vars(shop: Shop, days: Sequence[date]) -> dict[str, Any]:
    """Return the variables of one invocation; every value is typed here and not in SQL.

    Raises:
        TypeError: a day is not a date (a string could carry SQL: dbt interpolates raw text).
    """
    for day in days:
        if type(day) is not date:
            raise TypeError(f"a snapshot date is a datetime.date, not {day!r}")
    return {
        "snapshot_dates": [day.isoformat() for day in sorted(set(days))],
        "shop_timezone": shop.shop_timezone,
        "active_window_days": int(shop.active_window_days),
        "horizon_days": int(shop.horizon_days),
        "history_start_date": shop.first_day.isoformat(),
        "consent_without_records": shop.consent_without_records,
    }


def mark_of(shop: Shop, generation: int) -> str:
    """Return what a kept table is a function of: the load, the project, its variables, DuckDB."""
    import duckdb

    variables = {k: v for k, v in dbt_vars(shop, []).items() if k != "snapshot_dates"}
    text = _project_digest() + json.dumps(variables, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"load {generation}, project {digest}, DuckDB {duckdb.__version__}"


@cache
def _project_digest() -> str:
    """Return a hash of the project's files, once a process.

    Before they are parsed, which is once a process, too (`_parsed`): if somebody changes a file in
    between, the mark is too old, and what bears it is made again.
    """
    digest = hashlib.sha256()
    for path in sorted(_sources()):
        digest.update(f"\0{path.relative_to(PROJECT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def kept(connection: duckdb.DuckDBPyConnection, mark: str) -> list[str]:
    """Return the tables that bear the mark: what dbt would make of them is what they hold.

    The mark is the table's comment, so it goes with the table, whoever replaces it.
    """
    rows = connection.execute(
        "select table_name from duckdb_tables() where schema_name = 'intermediate' and comment = ?",
        [mark],
    ).fetchall()
    return sorted({name for (name,) in rows} & {*KEPT})


def keep(connection: duckdb.DuckDBPyConnection, results: Iterable[NodeResult], mark: str) -> None:
    """Mark the tables to keep among those that an invocation has made."""
    made = {result.unique_id for result in results}
    for name in KEPT:
        if f"model.holdfast.{name}" in made:
            connection.execute(f"comment on table intermediate.{name} is '{mark}'")


class Dbt:
    """dbt on one home's warehouse."""

    def __init__(self, home: Home, threads: int) -> None:
        self.home = home
        self.threads = threads

    def build(
        self, days: Sequence[date], select: Sequence[str] = (), exclude: Sequence[str] = ()
    ) -> list[NodeResult]:
        """Build and test the mart for `days` in one invocation, without the tables of `exclude`.

        Raises:
            DbtError: a model or a test of severity error failed.
        """
        arguments = [
            "build",
            "--vars",
            json.dumps(dbt_vars(self.home.shop, days)),
            "--exclude-resource-type",
            "unit_test",
            "--threads",
            str(self.threads),
        ]
        # Cautious: a test over two marts, one of which is not selected, would read one that is
        # absent, or that holds other days; and one of which is excluded is a test all the same.
        arguments += ["--indirect-selection", "cautious"]
        if select:
            arguments += ["--select", *select]
        if exclude:
            arguments += ["--exclude", *exclude]
        results = self._invoke(arguments)
        bad = [r for r in results if r.status in ("error", "fail", "runtime error")]
        if bad:
            lines = "\n".join(f"  {r.unique_id}: {r.message}" for r in bad)
            raise DbtError(f"dbt failed for {days[0]} .. {days[-1]}:\n{lines}")
        return results

    def docs(self) -> Path:
        """Write the documentation of the mart as one HTML page; return it.

        The SQL is shown as compiled for one day, the columns as the warehouse has them now.

        Raises:
            DbtError: a model does not compile, or another process has the warehouse open.
        """
        day = self.home.shop.last_day or self.home.shop.first_day
        variables = json.dumps(dbt_vars(self.home.shop, [day]))
        self._invoke(["docs", "generate", "--static", "--vars", variables])
        return self.home.dbt_target / "static_index.html"

    def _invoke(self, arguments: list[str]) -> list[NodeResult]:
        from dbt.cli.main import dbtRunner

        self.home.dbt_target.mkdir(parents=True, exist_ok=True)
        os.environ["HOLDFAST_WAREHOUSE"] = str(self.home.warehouse)
        flags = [
            "--project-dir",
            str(PROJECT),
            "--profiles-dir",
            str(PROJECT),
            "--target-path",
            str(self.home.dbt_target),
            "--log-path",
            str(self.home.dbt_target / "logs"),
        ]
        try:
            # dbt writes its progress to stdout; what matters of it is in the results.
            with contextlib.redirect_stdout(io.StringIO()):
                done = dbtRunner(manifest=_parsed()).invoke(
                    ["--quiet", "--no-write-json", *arguments, *flags]
                )
        finally:
            _close()
        if done.exception is not None:
            raise DbtError(f"dbt {arguments[0]}: {done.exception}") from done.exception
        return [
            NodeResult(
                unique_id=result.node.unique_id,
                status=str(result.status),
                seconds=float(result.execution_time),
                failures=result.failures,
                message=str(result.message or ""),
            )
            for result in getattr(done.result, "results", [])
        ]


@cache
def _parsed() -> Any:
    """Parse once a process, with variables that never change, so that the partial parse holds.

    That goes for the warehouse's path, too. What is parsed names DuckDB's catalog, which is the
    stem of that file: parsed under another name, say ":memory:", it cannot be built on any home.
    Parsing opens no file.
    """
    from dbt.cli.main import dbtRunner

    _project_digest()
    with (
        file_lock(MANIFEST.parent / ".lock"),
        contextlib.redirect_stdout(io.StringIO()),
        _warehouse_path(Path("warehouse.duckdb")),
    ):
        done = dbtRunner().invoke(
            [
                "--quiet",
                "parse",
                "--vars",
                json.dumps(PARSE_VARS),
                "--project-dir",
                str(PROJECT),
                "--profiles-dir",
                str(PROJECT),
                "--target-path",
                str(MANIFEST.parent),
                "--log-path",
                str(MANIFEST.parent / "logs"),
            ]
        )
    _close()
    if done.exception is not None or not done.success:
        raise DbtError(f"dbt parse failed: {done.exception}")
    return done.result


@contextlib.contextmanager
def _warehouse_path(path: Path) -> Iterator[None]:
    """Tell dbt's profile where the warehouse is, meanwhile."""
    before = os.environ.get("HOLDFAST_WAREHOUSE")
    os.environ["HOLDFAST_WAREHOUSE"] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["HOLDFAST_WAREHOUSE"]
        else:
            os.environ["HOLDFAST_WAREHOUSE"] = before


def _close() -> None:
    """Close DuckDB: another process, or this one with another configuration, waits for it.

    dbt-duckdb keeps one environment for the life of the process; forgetting the adapters, or
    `close_all_connections`, leaves its database open.
    """
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager
    from dbt.adapters.factory import reset_adapters

    reset_adapters()
    environment = DuckDBConnectionManager._ENV
    if environment is not None:
        environment.close()
        DuckDBConnectionManager.close_all_connections()


def _sources() -> list[Path]:
    """Return the files of the project."""
    found = [path for path in PROJECT.rglob("*") if path.suffix in {".sql", ".yml", ".csv"}]
    return [path for path in found if "target" not in path.relative_to(PROJECT).parts]


def prepare_manifest() -> Path:
    """Write the manifest that the definitions are made from, if the project changed since."""
    newest = max(path.stat().st_mtime for path in _sources())
    if not MANIFEST.is_file() or MANIFEST.stat().st_mtime < newest:
        _parsed()
    return MANIFEST


def read_manifest() -> Mapping[str, Any]:
    """Return the prepared manifest.

    Raises:
        DbtError: there is none; loading the definitions never parses.
    """
    if not MANIFEST.is_file():
        raise DbtError(f"{MANIFEST} is not there; run `make setup`")
    return json.loads(MANIFEST.read_text())
