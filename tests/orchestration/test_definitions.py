"""The whole graph: complete, documented, under the pool where it must be, cheap to load."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from syrupy.assertion import SnapshotAssertion

from orchestration.definitions import build_defs
from orchestration.defs.daily import BACKFILL, DAYS_PER_RUN, daily_partitions
from orchestration.defs.jobs import due_days, range_tags
from orchestration.resources.catalog import Catalog, Publication
from orchestration.resources.home import Home, Shop
from orchestration.resources.platform import Platform
from orchestration.resources.warehouse import POOL
from orchestration.settings import Settings
from orchestration.tables import all_tables

ROOT = Path(__file__).resolve().parents[2]
SHOP = Shop("Europe/Berlin", "EUR", date(2024, 1, 1), date(2024, 12, 31))
HEAVY = (
    "pandas",
    "numpy",
    "sklearn",
    "mlflow",
    "great_expectations",
    "duckdb",
    "pyarrow",
    "scipy",
    "statsmodels",
    "matplotlib",
    "deltalake",
    "skops",
)


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    return build_defs(Settings(env="dev"), shop=SHOP)


@pytest.fixture(scope="module")
def prod() -> dg.Definitions:
    return build_defs(Settings(env="prod"), shop=SHOP)


def nodes(defs: dg.Definitions) -> dict[str, Any]:
    graph = defs.resolve_asset_graph()
    return {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}


def checks_definitions(defs: dg.Definitions) -> list[dg.AssetChecksDefinition]:
    return [one for one in defs.asset_checks or [] if isinstance(one, dg.AssetChecksDefinition)]


# -- the graph -----------------------------------------------------------------------------------


def test_the_graph(defs: dg.Definitions, snapshot: SnapshotAssertion) -> None:
    """What is there and what depends on what; a change is looked at, and then accepted."""
    found = {}
    for name, node in sorted(nodes(defs).items()):
        found[name] = {
            "deps": sorted(key.to_user_string() for key in node.parent_keys),
            "group": node.group_name,
            "owners": sorted(node.owners),
            "kinds": sorted(node.kinds),
            "partitions": type(node.partitions_def).__name__ if node.partitions_def else None,
            "one run per backfill": node.backfill_policy == BACKFILL,
            "pools": sorted(node.pools or ()),
            "checks": sorted(key.name for key in node.check_keys),
        }
    assert found == snapshot


def test_jobs_and_schedules(prod: dg.Definitions, snapshot: SnapshotAssertion) -> None:
    repository = prod.get_repository_def()
    found = {
        "jobs": {
            job.name: sorted(key.to_user_string() for key in job.asset_layer.executable_asset_keys)
            for job in repository.get_all_jobs()
            if not job.name.startswith("__")
        },
        "schedules": {
            one.name: [one.job_name, one.cron_schedule, one.execution_timezone]
            for one in repository.schedule_defs
        },
        "sensors": {
            one.name: [one.job_name, one.minimum_interval_seconds, one.default_status.value]
            for one in repository.sensor_defs
        },
    }
    assert found == snapshot


def test_the_order_can_be_walked(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    order = {key: number for number, key in enumerate(graph.toposorted_asset_keys)}
    assert set(order) == set(graph.get_all_asset_keys())
    for key, number in order.items():
        assert all(order[parent] < number for parent in graph.get(key).parent_keys)


def test_no_asset_depends_on_what_is_not_there(defs: dg.Definitions) -> None:
    """A misspelt dependency becomes an empty external asset, and nobody is told."""
    strangers = [
        name
        for name, node in nodes(defs).items()
        if not node.is_executable and not name.startswith("landing/")
    ]
    assert strangers == []


def test_data_flows_from_landing_to_the_cohorts(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    upstream, found = set(), {"lake/campaign_cohorts"}
    while found:
        upstream |= found
        keys = [dg.AssetKey.from_user_string(name) for name in found]
        found = {p.to_user_string() for k in keys for p in graph.get(k).parent_keys} - upstream
    stages = ("landing/orders", "raw/orders", "mart/customer_features", "lake/customer_features")
    models = ("models/churn", "models/customer_segments", "lake/churn_scores")
    assert set(stages) | set(models) <= upstream


def test_every_asset_says_what_it_is(defs: dg.Definitions) -> None:
    for name, node in nodes(defs).items():
        assert node.group_name not in (None, "default"), name
        assert node.owners, name
        assert node.description, name
        assert len(node.description) > 10, name
        assert node.kinds, name


def test_every_asset_that_is_made_has_a_freshness_policy_and_a_code_version(
    defs: dg.Definitions,
) -> None:
    for name, node in nodes(defs).items():
        if node.is_executable:
            assert node.freshness_policy is not None, name
            assert node.code_version, name


def test_every_table_shows_its_columns(defs: dg.Definitions) -> None:
    for name, node in nodes(defs).items():
        if name.startswith(("raw/", "mart/", "lake/", "staging/", "intermediate/")):
            columns = node.metadata["dagster/column_schema"].columns
            assert columns, name
            assert all(column.description for column in columns), name


def test_published_columns_are_the_declared_ones(defs: dg.Definitions) -> None:
    published = {n.removeprefix("lake/"): node for n, node in nodes(defs).items() if "lake/" in n}
    assert set(published) == set(all_tables())
    for name, table in all_tables().items():
        columns = published[name].metadata["dagster/column_schema"].columns
        assert tuple(column.name for column in columns) == table.column_names
        assert [c.constraints.nullable for c in columns] == [c.nullable for c in table.columns]


def test_every_daily_asset_has_the_days_of_the_shop(defs: dg.Definitions) -> None:
    days = daily_partitions(SHOP)
    for name, node in nodes(defs).items():
        if name.startswith(("landing/", "models/")):
            assert node.partitions_def is None, name
        else:
            assert node.partitions_def == days, name
            assert node.backfill_policy == BACKFILL, name


def test_every_published_table_is_audited_before_it_is_published(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    for name in all_tables():
        key = dg.AssetCheckKey(dg.AssetKey(["lake", name]), "audit")
        assert graph.get(key).blocking, name


def test_every_check_says_what_it_is(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    for key in graph.asset_check_keys:
        if key.asset_key.path[0] != "mart":  # dbt's own are documented in the dbt project
            assert graph.get(key).description, key


def test_what_meets_a_lock_or_a_disk_is_tried_again(defs: dg.Definitions) -> None:
    for assets in (one for one in defs.assets or [] if isinstance(one, dg.AssetsDefinition)):
        if any(key.path[0] in ("raw", "mart", "lake") for key in assets.keys):
            policy = assets.op.retry_policy
            assert policy is not None, assets.keys
            assert policy.max_retries >= 1


# -- the pool ------------------------------------------------------------------------------------


@dataclass
class Function:
    """A function of orchestration/: what it calls, what it takes of things, how it is decorated."""

    calls: set[str] = field(default_factory=set)
    takes: set[str] = field(default_factory=set)
    decorators: str = ""


def functions() -> dict[str, Function]:
    """Return every function, as module:name; calls by the same name where it is known."""
    found: dict[str, Function] = {}
    trees = {p: ast.parse(p.read_text()) for p in sorted((ROOT / "orchestration").rglob("*.py"))}
    for path, tree in trees.items():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        names = {
            alias.asname or alias.name: f"{node.module}:{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        own = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        names |= {node.name: f"{module}:{node.name}" for node in own if node.name not in names}
        for node in own:
            one = found.setdefault(f"{module}:{node.name}", Function())
            one.decorators += " ".join(ast.unparse(each) for each in node.decorator_list)
            for inner in ast.walk(node):
                if isinstance(inner, ast.Attribute):
                    one.takes.add(inner.attr)
                elif isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name):
                    one.calls.add(names.get(inner.func.id, inner.func.id))
    return found


def openers(found: Mapping[str, Function]) -> set[str]:
    """Return the functions that open the warehouse, themselves or through what they call."""
    # every way to DuckDB goes through `platform.warehouse` or `platform.dbt`
    opening = {name for name, one in found.items() if {"warehouse", "dbt"} & one.takes}
    while True:
        more = opening | {name for name, one in found.items() if one.calls & opening}
        if more == opening:
            return opening
        opening = more


ASSETS = (
    "dg.asset(",
    "dg.multi_asset(",
    "dbt_assets(",
    "daily_asset(",
    "dg.asset_check(",
    "dg.op(",
)
TICKS = ("dg.schedule(", "dg.sensor(")


def test_what_opens_the_warehouse_has_the_pool_and_nothing_else_does() -> None:
    found = functions()
    opening, judged = openers(found), {}
    for name, one in found.items():
        if one.decorators.startswith(ASSETS) and name != "orchestration.defs.daily:asset":
            has = "pool=POOL" in one.decorators or "opens_warehouse=True" in one.decorators
            judged[name.split(":")[1]] = (name in opening, has)
    assert {name for name, (opens, has) in judged.items() if opens != has} == set()
    assert {name for name, (opens, _) in judged.items() if opens} == {
        "raw",
        "mart",
        "publish",
        "build_history",
    }
    assert len(judged) >= 14


def test_no_schedule_and_no_sensor_opens_the_warehouse() -> None:
    """They have no pool: a tick that held the file would fail the run that needs it."""
    found = functions()
    ticks = {name for name, one in found.items() if one.decorators.startswith(TICKS)}
    assert {name.split(":")[1] for name in ticks} == {
        "daily_schedule",
        "training_schedule",
        "stale_days",
    }
    assert ticks & openers(found) == set()


def test_the_pool_in_the_graph(defs: dg.Definitions) -> None:
    """The same of the definitions themselves: by layer."""
    under = {name for name, node in nodes(defs).items() if node.pools}
    assert all(nodes(defs)[name].pools == {POOL} for name in under)
    from orchestration.tables import mart_tables

    candidates = {f"lake/{name}" for name in mart_tables()}
    expected = {n for n in nodes(defs) if n.startswith(("raw/", "mart/"))} | candidates
    assert under == expected


def test_every_check_that_runs_on_its_own_leaves_the_warehouse_alone(
    defs: dg.Definitions,
) -> None:
    assert {c.node_def.name for c in checks_definitions(defs) if c.node_def.pools} == set()
    assert len(checks_definitions(defs)) == 2


# -- schedules -----------------------------------------------------------------------------------


def test_a_schedule_that_is_not_there_cannot_fire(
    defs: dg.Definitions, prod: dg.Definitions
) -> None:
    assert list(defs.get_repository_def().schedule_defs) == []
    assert list(defs.get_repository_def().sensor_defs) == []
    asked = build_defs(Settings(schedules=True), shop=SHOP).get_repository_def()
    for repository in (prod.get_repository_def(), asked):
        assert {one.name for one in repository.schedule_defs} == {
            "daily_schedule",
            "training_schedule",
        }


def ask(shop: Shop, at: str, home: Path | None = None) -> list[dg.RunRequest]:
    """Return what the daily schedule asks for at `at`, in the shop's own time."""
    import datetime
    from zoneinfo import ZoneInfo

    settings = Settings(env="prod", **({"home": home} if home else {}))
    definitions = build_defs(settings, shop=shop)
    schedule = definitions.get_repository_def().get_schedule_def("daily_schedule")
    moment = datetime.datetime.fromisoformat(at).replace(tzinfo=ZoneInfo(shop.shop_timezone))
    context = dg.build_schedule_context(
        scheduled_execution_time=moment,
        repository_def=definitions.get_repository_def(),
        resources=definitions.resources,
    )
    return list(schedule.evaluate_tick(context).run_requests or [])


def tick(shop: Shop, at: str) -> list[tuple[str | None, str | None]]:
    """Return run key and partition of what the daily schedule asks for in a new home."""
    return [(one.run_key, one.partition_key) for one in ask(shop, at)]


LIVE = Shop("Europe/Berlin", "EUR", date(2024, 1, 1))


@pytest.mark.parametrize(
    ("shop", "at", "day"),
    [
        (LIVE, "2024-05-02 04:00", "2024-05-01"),
        (LIVE, "2024-01-02 04:00", "2024-01-01"),  # the first day there is
        (LIVE, "2024-03-31 04:00", "2024-03-30"),  # the night that lost an hour
        (LIVE, "2024-04-01 04:00", "2024-03-31"),  # after a day of 23 hours
        (LIVE, "2024-10-27 04:00", "2024-10-26"),  # the night that has an hour twice
        (LIVE, "2024-10-28 04:00", "2024-10-27"),  # after a day of 25 hours
        (LIVE, "2025-01-01 04:00", "2024-12-31"),
        (LIVE, "2024-03-01 04:00", "2024-02-29"),
        (Shop("America/New_York", "USD", date(2024, 1, 1)), "2024-03-11 04:00", "2024-03-10"),
        (Shop("Australia/Lord_Howe", "AUD", date(2024, 1, 1)), "2024-04-08 04:00", "2024-04-07"),
        (Shop("Asia/Kathmandu", "NPR", date(2024, 1, 1)), "2024-05-02 04:00", "2024-05-01"),
    ],
)
def test_a_tick_is_the_shop_day_that_ended(shop: Shop, at: str, day: str) -> None:
    assert tick(shop, at) == [(day, day)]


def test_a_tick_before_there_is_a_day_asks_for_nothing() -> None:
    assert tick(LIVE, "2024-01-01 04:00") == []


@pytest.mark.parametrize(
    ("last_made", "expected"),
    [
        (date(2024, 4, 30), ("2024-05-01", {})),
        (date(2024, 4, 27), (None, range_tags("2024-04-28", "2024-05-01"))),
    ],
)
def test_a_tick_makes_up_for_days_on_which_nothing_ran(
    tmp_path: Path, last_made: date, expected: tuple[str | None, dict[str, str]]
) -> None:
    """After a week of downtime the schedule asked for the last day only, and left a gap."""
    home = Home.create(tmp_path, LIVE)
    publication = Publication("churn_scores", last_made.isoformat(), 0, "hash", 1, 1)
    log = home.lake / "churn_scores" / "_delta_log"
    log.mkdir(parents=True)
    (log / f"{0:020d}.json").touch()
    Catalog(home.catalog).index([publication])
    [asked] = ask(LIVE, "2024-05-02 04:00", tmp_path)
    tags = {k: v for k, v in asked.tags.items() if k.startswith("dagster/asset_partition_range")}
    assert asked.run_key == "2024-05-01"
    assert (asked.partition_key, tags) == expected


def test_a_gap_longer_than_a_run_is_made_up_by_the_ticks_that_follow() -> None:
    days = [(date(2024, 1, 1) + timedelta(days=n)).isoformat() for n in range(100)]
    assert due_days(days, date(2024, 1, 10)) == days[10 : 10 + DAYS_PER_RUN]
    assert due_days(days, date(2024, 4, 9)) == []
    assert due_days([], None) == []


def test_ticks_of_a_year_are_its_days_each_once() -> None:
    days = [LIVE.first_day + timedelta(days=n) for n in range(366)]
    partitions = daily_partitions(LIVE)
    from datetime import datetime, time
    from zoneinfo import ZoneInfo

    zone = ZoneInfo(LIVE.shop_timezone)
    for day in days:
        at = datetime.combine(day + timedelta(days=1), time(4), zone)
        assert partitions.get_partition_keys(current_time=at)[-1] == day.isoformat()


# -- partitions ----------------------------------------------------------------------------------


def test_a_historic_shop_has_exactly_its_days() -> None:
    keys = daily_partitions(SHOP).get_partition_keys()
    assert (keys[0], keys[-1], len(keys)) == ("2024-01-01", "2024-12-31", 366)


def test_a_live_shop_may_be_told_what_today_is() -> None:
    assert daily_partitions(LIVE, date(2024, 1, 5)).get_partition_keys()[-1] == "2024-01-05"


# -- overrides -----------------------------------------------------------------------------------


def test_the_home_gives_the_shop(tmp_path: Path) -> None:
    Home.create(tmp_path, LIVE)
    built = build_defs(Settings(home=tmp_path))
    partitions = nodes(built)["lake/churn_scores"].partitions_def
    assert partitions == daily_partitions(LIVE)
    platform = (built.resources or {})["platform"]
    assert isinstance(platform, Platform)
    assert Path(platform.root) == tmp_path.resolve()


def test_without_a_home_the_graph_can_still_be_looked_at(tmp_path: Path) -> None:
    assert nodes(build_defs(Settings(home=tmp_path / "nowhere")))["lake/churn_scores"]
    assert not (tmp_path / "nowhere").exists()


def test_resources_can_be_replaced(tmp_path: Path) -> None:
    other = Platform(root=str(tmp_path))
    built = build_defs(Settings(), shop=SHOP, resources={"platform": other})
    assert (built.resources or {})["platform"] is other


def test_the_manifest_can_be_replaced() -> None:
    from orchestration.resources.dbt import read_manifest

    manifest = dict(read_manifest())
    left_out = "model.holdfast.churn_labels"
    assert left_out in manifest["nodes"]
    manifest["nodes"] = {k: v for k, v in manifest["nodes"].items() if k != left_out}
    for name in ("child_map", "parent_map"):
        manifest[name] = {
            key: [one for one in values if one != left_out]
            for key, values in manifest[name].items()
            if key != left_out
        }
    node = nodes(build_defs(Settings(), shop=SHOP, manifest=manifest))["mart/churn_labels"]
    assert not node.is_executable


def test_a_missing_manifest_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestration.resources import dbt

    monkeypatch.setattr(dbt, "MANIFEST", ROOT / "nowhere" / "manifest.json")
    with pytest.raises(dbt.DbtError, match="make setup"):
        build_defs(Settings(), shop=SHOP)


# -- loading -------------------------------------------------------------------------------------


def test_loading_imports_nothing_heavy() -> None:
    code = (
        "import json, sys\n"
        "from orchestration.definitions import defs\n"
        "defs().get_repository_def() if callable(defs) else None\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize(
    "command",
    [
        ["dagster", "definitions", "validate", "-w", "workspace.yaml"],
        ["dg", "check", "defs"],
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_the_tools_of_dagster_accept_it(command: list[str], tmp_path: Path) -> None:
    executable = Path(sys.executable).with_name(command[0])
    assert executable.is_file(), f"{command[0]} is not installed; `make test` installs it"
    done = subprocess.run(
        [str(executable), *command[1:]],
        cwd=ROOT,
        env={
            **os.environ,
            "HOLDFAST_HOME": str(tmp_path / "home"),
            "HOME": str(tmp_path),
            "PATH": f"{executable.parent}{os.pathsep}{os.environ['PATH']}",
            "DAGSTER_DISABLE_TELEMETRY": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
