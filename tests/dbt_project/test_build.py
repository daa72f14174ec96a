"""The project as dbt runs it: build, variables, documentation, what may not stand in its SQL."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from mart_project import DEFAULT_VARS, PRIMARY_KEYS, PROJECT, Dbt, assert_same_rows, read_marts
from raw_world import World, write_world

from ml.features import CONTEXT, FEATURES

DAYS = ["2025-02-01", "2024-11-03"]
SQL_FILES = sorted(
    path for folder in ("models", "macros", "tests") for path in (PROJECT / folder).rglob("*.sql")
)
YAML_FILES = sorted((PROJECT / "models").rglob("*.yml"))


@pytest.fixture(scope="module")
def built(dbt: Dbt, world: World) -> Any:
    """A full `dbt build` of two days: models, data tests and unit tests."""
    write_world(world, dbt.warehouse)
    return dbt.invoke("build", variables={**DEFAULT_VARS, "snapshot_dates": DAYS})


def test_everything_passes(built: Any) -> None:
    assert built.success, built.exception
    kinds = [result.node.resource_type for result in built.result.results]
    assert kinds.count("unit_test") >= 13
    assert kinds.count("test") >= 18
    statuses = {str(result.status) for result in built.result.results}
    assert statuses <= {"success", "pass", "warn"}


def test_the_warehouse_is_closed_afterwards(built: Any, dbt: Dbt) -> None:
    """This process may open it again at once, under another configuration, and so may another."""
    with duckdb.connect(str(dbt.warehouse), config={"threads": 1}) as connection:
        connection.execute("CREATE OR REPLACE TABLE main.written AS SELECT 1 AS one")
    script = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('DROP TABLE main.written')"
    subprocess.run([sys.executable, "-c", script, str(dbt.warehouse)], check=True)


def test_dbt_builds_what_the_other_tests_compile(built: Any, dbt: Dbt, world: World) -> None:
    with duckdb.connect(str(dbt.warehouse), read_only=True) as connection:
        marts = read_marts(connection)
    assert_same_rows(marts, dbt.run(world, snapshot_dates=DAYS))
    assert set(marts["customer_features"]["snapshot_date"]) == set(map(date.fromisoformat, DAYS))


def test_the_requested_days_stand_in_one_model(dbt: Dbt) -> None:
    """Only whether they are one or many shapes other SQL."""
    one = dbt.compiled(snapshot_dates=DAYS[:1])
    another = dbt.compiled(snapshot_dates=["2024-02-29"])
    few, many = (
        dbt.compiled(snapshot_dates=DAYS),
        dbt.compiled(snapshot_dates=[*DAYS, "2026-01-31"]),
    )
    for left, right in ((one, another), (few, many)):
        assert [a.name for a, b in zip(left, right, strict=True) if a.sql != b.sql] == [
            "int_snapshot_dates"
        ]
    assert sum(a.sql != b.sql for a, b in zip(one, few, strict=True)) > 5


def test_schemas_are_exactly_three(built: Any, dbt: Dbt) -> None:
    with duckdb.connect(str(dbt.warehouse), read_only=True) as connection:
        rows = connection.execute(
            "SELECT DISTINCT table_schema FROM information_schema.tables"
        ).fetchall()
    assert {row[0] for row in rows} == {"raw", "staging", "intermediate", "mart"}


def test_bad_data_breaks_the_build(dbt: Dbt, world: World, tmp_path: Path) -> None:
    """A loader that marked two versions of an order as current would count it twice."""
    other = Dbt(tmp_path)
    orders = world["orders"].copy()
    orders["_superseded_date"] = None
    write_world({**world, "orders": orders}, other.warehouse)
    done = other.invoke(
        "build",
        "--select",
        "+int_order_lines",
        "--exclude-resource-type",
        "unit_test",
        variables=dict(DEFAULT_VARS),
    )
    assert not done.success
    failed = [r.node.name for r in done.result.results if str(r.status) in ("fail", "error")]
    assert any("unique_key_int_order_lines" in name for name in failed), failed


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("snapshot_dates", None, "'snapshot_dates' is not set"),
        ("shop_timezone", None, "'shop_timezone' is not set"),
        ("horizon_days", None, "'horizon_days' is not set"),
        ("active_window_days", None, "'active_window_days' is not set"),
        ("history_start_date", None, "'history_start_date' is not set"),
        ("consent_without_records", None, "'consent_without_records' is not set"),
        ("snapshot_dates", [], "at least one date"),
        ("snapshot_dates", "2025-01-31", "must be a list"),
        ("snapshot_dates", ["31.01.2025"], "not a date"),
        ("snapshot_dates", ["2025-01-31') --"], "not a date"),
        ("shop_timezone", "Europe/Berlin'", "not a time zone"),
        ("horizon_days", 0, "whole number of days"),
        ("horizon_days", "90", "whole number of days"),
        ("consent_without_records", "maybe", "'denied' or 'granted'"),
    ],
)
def test_a_wrong_variable_stops_the_build(dbt: Dbt, name: str, value: Any, message: str) -> None:
    variables = {**DEFAULT_VARS, name: value}
    if value is None:
        del variables[name]
    models = "int_snapshot_dates stg_orders int_purchase_rhythm customer_features int_customers"
    done = dbt.invoke(
        "compile",
        "--select",
        *models.split(),
        "--exclude",
        "resource_type:test",
        variables=variables,
    )
    assert not done.success
    problem = str(done.exception) + "".join(
        str(result.message) for result in getattr(done.result, "results", None) or []
    )
    assert message in problem


def test_the_documentation_builds(built: Any, dbt: Dbt) -> None:
    done = dbt.invoke("docs", "generate", variables=dict(DEFAULT_VARS))
    assert done.success, done.exception
    catalog = json.loads((dbt.folder / "target" / "catalog.json").read_text())
    manifest = json.loads((dbt.folder / "target" / "manifest.json").read_text())
    for key, entry in catalog["nodes"].items():
        node = manifest["nodes"][key]
        assert node["description"], key
        assert node["config"]["group"] in ("staging", "intermediate", "mart"), key
        declared = {name.lower() for name in node["columns"]}
        assert declared == {name.lower() for name in entry["columns"]}, key
        empty = [name for name, column in node["columns"].items() if not column["description"]]
        assert not empty, (key, empty)
    for source in manifest["sources"].values():
        assert source["description"], source["name"]


def test_every_mart_has_a_contract_and_a_key(built: Any) -> None:
    declared = yaml.safe_load((PROJECT / "models" / "marts" / "_marts.yml").read_text())["models"]
    keys = {
        model["name"]: model["data_tests"][0]["unique_key"]["arguments"]["columns"]
        for model in declared
    }
    assert keys == PRIMARY_KEYS
    for model in declared:
        required = {column["name"] for column in model["columns"] if column.get("constraints")}
        assert required >= set(PRIMARY_KEYS[model["name"]])
    nodes = [r.node for r in built.result.results if r.node.resource_type == "model"]
    assert {n.name for n in nodes if n.contract.enforced} == set(PRIMARY_KEYS)


def test_features_are_those_of_the_models(built: Any, dbt: Dbt) -> None:
    with duckdb.connect(str(dbt.warehouse), read_only=True) as connection:
        rows = connection.execute("DESCRIBE mart.customer_features").fetchall()
    assert [row[0] for row in rows] == [*CONTEXT, *FEATURES]


# What may not stand in shared SQL: the wall clock, results that depend on the order of rows or the
# number of threads, and words that other engines do not have.
FORBIDDEN = {
    "the wall clock": r"\b(now|current_date|current_timestamp|today|getdate|sysdate|localtimestamp"
    r"|get_current_timestamp)\b",
    "a random number": r"\b(random|rand|uuid|gen_random_uuid|setseed)\b",
    "an unordered pick": r"\b(first|last|any_value|arbitrary|first_value|last_value|nth_value|mode"
    r"|string_agg|list|array_agg|arg_max|arg_min|max_by|min_by)\s*\((?![^()]*\border by\b)",
    "an aggregate over doubles": r"\b(avg|mean|stddev\w*|var_\w+|variance|corr|covar_\w+|regr_\w+"
    r"|entropy|kurtosis|skewness|product|favg|fsum|kahan_sum|geomean)\s*\(",
    "a sketch": r"\bapprox_\w+\s*\(",
    "what other engines lack": r"\b(asof|qualify|exclude|pivot|unpivot)\b",
    "a limit without an order": r"\blimit\b",
}


def _sql(path: Path) -> str:
    text = re.sub(r"\{#.*?#\}", "", path.read_text(), flags=re.DOTALL)
    return re.sub(r"--[^\n]*", "", text).lower()


@pytest.mark.parametrize("what", FORBIDDEN)
def test_forbidden_sql(what: str) -> None:
    found = {
        path.name: match.group(0)
        for path in SQL_FILES
        if (match := re.search(FORBIDDEN[what], _sql(path)))
    }
    assert not found


@pytest.mark.parametrize(
    ("what", "sql"),
    [
        ("the wall clock", "where day < current_date"),
        ("a random number", "order by random()"),
        ("an unordered pick", "select any_value(x)"),
        ("an aggregate over doubles", "select avg(x)"),
        ("a sketch", "select approx_count_distinct(x)"),
        ("what other engines lack", "select * exclude (x)"),
        ("a limit without an order", "select 1 limit 1"),
    ],
)
def test_forbidden_sql_would_be_found(what: str, sql: str) -> None:
    assert re.search(FORBIDDEN[what], sql)


def test_sums_are_exact(built: Any, dbt: Dbt) -> None:
    """No model sums a double: each sum in the compiled SQL is over whole numbers or decimals."""
    models = [*dbt.compiled(), *dbt.compiled(snapshot_dates=DAYS)]
    with duckdb.connect(str(dbt.warehouse), read_only=True) as connection:
        for model in models:
            sql = re.sub(r"--[^\n]*", "", model.sql)
            plan = connection.execute(
                f"EXPLAIN (FORMAT json) {sql.replace(chr(34) + 'warehouse' + chr(34) + '.', '')}"
            ).fetchall()[0][1]
            assert "avg(" not in plan.lower()
        doubles = connection.execute(
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE data_type IN ('DOUBLE', 'FLOAT')"
        ).fetchall()
    for table, column in doubles:
        for path in SQL_FILES:
            pattern = rf"(sum|sum_if)\(\s*'?(\w+\.)?{column}\b"
            assert not re.search(pattern, _sql(path)), (table, column, path.name)


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [("", "", None), ("select", "SELECT", "CP01"), ("from products", "from products,", "PRS")],
)
def test_lint_works_without_a_database(right: str, wrong: str, rule: str | None) -> None:
    """sqlfluff renders a model by this project's own macros, and finds what is wrong with it.

    Linting the whole project takes six seconds: `make lint` and pre-commit do.
    """
    path = PROJECT / "models/staging/stg_products.sql"
    done = subprocess.run(
        [sys.executable, "-m", "sqlfluff", "lint", "--stdin-filename", str(path), "-"],
        cwd=PROJECT,
        input=path.read_text().replace(right, wrong, 1),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (1 if rule else 0), done.stdout
    assert (rule or "") in done.stdout


def test_yaml_files_name_models_that_exist() -> None:
    models = {path.stem for path in (PROJECT / "models").rglob("*.sql")}
    documented = {
        model["name"]
        for path in YAML_FILES
        for model in (yaml.safe_load(path.read_text()) or {}).get("models", [])
    }
    assert documented == models
