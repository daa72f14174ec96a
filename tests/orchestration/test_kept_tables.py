"""What a table's own comment says of it: of which load and days it is, and so what it is good for.

Belongs here: when dbt is spared int_orders and its like, and the proof that what was kept is what
dbt would have made, over random deliveries; that no mart is published as what it does not hold.
Does not belong here: what is in them (tests/dbt_project).
"""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestration.defs.mart import assets
from orchestration.defs.mart.assets import build_mart
from orchestration.defs.sources.assets import require_raw, take_in
from orchestration.defs.sources.contract import load_contract
from orchestration.resources import dbt, warehouse
from orchestration.resources.dbt import KEPT, PROJECT, mark_of, prepare_manifest, read_manifest
from orchestration.resources.lake import NotPublishedError
from orchestration.resources.platform import Platform

if TYPE_CHECKING:
    from orchestration.resources.home import Home

DAY = date(2024, 3, 5)
REQUIRED = {
    "customers": "customer_id,created_at\nann,2024-03-01\nbob,2024-03-01\n",
    "orders": "order_id,customer_id,ordered_at\no1,ann,2024-03-03\n",
    "order_items": "order_id,line_number,product_id,quantity,unit_price\no1,1,p1,1,1\n",
}
ORDERS_ALONE = ["+orders", "+order_lines"]  # as a history of facts asks for


@pytest.fixture
def platform(home: Home, monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setenv("HOLDFAST_WAREHOUSE", "")
    prepare_manifest()
    platform = Platform(root=str(home.root))
    for table, text in REQUIRED.items():
        land(platform, table, "0.csv", text)
    take_in(platform, "run", lambda text: None)
    return platform


def land(platform: Platform, table: str, name: str, text: str) -> None:
    path = platform.home.landing / table / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def build(platform: Platform, day: date = DAY, select: list[str] | None = None) -> set[str]:
    """Build a day; return what dbt made and tested, by name."""
    results = build_mart(platform, [day], select or [])
    return {result.unique_id.split(".")[2] for result in results}


def tables(platform: Platform, names: tuple[str, ...]) -> dict[str, list[Any]]:
    with platform.warehouse.connect() as connection:
        held = {
            name: f"{schema}.{name}"
            for schema, name in connection.execute(
                "select schema_name, table_name from duckdb_tables()"
            ).fetchall()
        }
        return {
            name: connection.execute(f"from {held[name]} order by all").fetchall() for name in names
        }


def without_marks(platform: Platform) -> None:
    with platform.warehouse.connect() as connection:
        for schema, name in connection.execute(
            "select schema_name, table_name from duckdb_tables() where comment is not null"
        ).fetchall():
            connection.execute(f"comment on table {schema}.{name} is null")


def test_they_are_the_tables_that_no_requested_day_shapes(platform: Platform) -> None:
    nodes = read_manifest()["nodes"]

    def shaped(unique_id: str) -> bool:
        node = nodes.get(unique_id)
        if node is None:
            return False
        return node["name"] == "int_snapshot_dates" or any(map(shaped, node["depends_on"]["nodes"]))

    steady = {
        node["name"]
        for unique_id, node in nodes.items()
        if node["resource_type"] == "model"
        and node["config"]["materialized"] == "table"
        and not shaped(unique_id)
    }
    assert steady == {*KEPT}


def test_another_day_of_the_same_load_is_built_on_them(platform: Platform) -> None:
    first, again = build(platform), build(platform, DAY + timedelta(days=1))
    assert first >= {*KEPT}
    spared = first - again
    assert spared >= {*KEPT}
    # Of tests only those of these tables; one that reads another table, too, is made.
    assert all(any(name in test for name in KEPT) for test in spared)
    assert "revenue_adds_up" in again
    marts = tuple(assets.mart_tables())
    grown = tables(platform, marts)
    without_marks(platform)
    assert build(platform, DAY + timedelta(days=1)) == first
    assert tables(platform, marts) == grown
    assert grown["customer_status"]


def test_when_in_doubt_they_are_made(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    build(platform, select=ORDERS_ALONE)
    assert "int_orders" not in build(platform, select=ORDERS_ALONE)
    # Somebody else made the table: it bears no mark.
    with platform.warehouse.connect() as connection:
        connection.execute(
            "create or replace table intermediate.int_orders as from intermediate.int_orders"
        )
    assert {"int_orders", "int_order_lines"} & build(platform, select=ORDERS_ALONE) == {
        "int_orders"
    }
    # Something landed, and the build failed, or was killed, after they had been made.
    land(platform, "orders", "1.csv", "order_id,customer_id,ordered_at\no2,bob,2024-03-04\n")
    take_in(platform, "run", lambda text: None)
    made = dbt.Dbt.build

    def failing(*args: Any, **kwargs: Any) -> Any:
        made(*args, **kwargs)
        raise dbt.DbtError("a test failed")

    with monkeypatch.context() as patch:
        patch.setattr(dbt.Dbt, "build", failing)
        with pytest.raises(dbt.DbtError):
            build(platform, select=ORDERS_ALONE)
    assert build(platform, select=ORDERS_ALONE) >= {"int_orders", "int_order_lines"}


def test_a_mark_is_of_a_load_a_project_and_a_shop(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = mark_of(home.shop, 3)
    assert mark == mark_of(replace(home.shop, last_day=None), 3)  # no day shapes it
    others = {
        mark_of(home.shop, 4),
        mark_of(replace(home.shop, shop_timezone="UTC"), 3),
    }
    project = tmp_path / "project"
    for path in (PROJECT / "models" / "intermediate").glob("*.sql"):
        copy = project / path.relative_to(PROJECT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    monkeypatch.setattr(dbt, "PROJECT", project)
    dbt._project_digest.cache_clear()
    same = mark_of(home.shop, 3)
    assert same == mark_of(home.shop, 3)
    changed = project / "models" / "intermediate" / "int_orders.sql"
    changed.write_text(changed.read_text() + "\n")
    assert same == mark_of(home.shop, 3)  # this process builds what it has parsed
    dbt._project_digest.cache_clear()
    others |= {same, mark_of(home.shop, 3)}
    assert len({mark, *others}) == 5
    dbt._project_digest.cache_clear()


def test_a_mart_that_somebody_else_made_is_not_published(platform: Platform) -> None:
    """`dbt build` by hand leaves the mart of other days: these would be published as empty ones."""
    ordered = date(2024, 3, 3)
    build(platform, ordered, ORDERS_ALONE)
    orders = assets.mart_tables()["orders"]
    assert len(assets.export(platform, orders, [ordered])[ordered].frame) == 1
    with pytest.raises(NotPublishedError, match="does not hold orders of 2024-03-05"):
        assets.export(platform, orders, [DAY])
    for comment in ("null", "'mine'", "'3'", """'{"owner": "ann"}'"""):
        with platform.warehouse.connect() as connection:
            connection.execute("create or replace table mart.orders (snapshot_date date)")
            connection.execute(f"comment on table mart.orders is {comment}")
        with pytest.raises(NotPublishedError, match="materialise mart/orders"):
            assets.export(platform, orders, [ordered])


def test_a_warehouse_of_an_earlier_version_is_loaded_first(platform: Platform) -> None:
    """dbt would say that a column is not there, and not what to do."""
    require_raw(platform)
    with platform.warehouse.connect() as connection:
        connection.execute("alter table raw.events drop column _superseded_date")
    with pytest.raises(NotPublishedError, match=r"raw\.events .* without _superseded_date; materi"):
        require_raw(platform)
    take_in(platform, "run", lambda text: None)
    require_raw(platform)


def deliver_at_random(platform: Platform, rng: random.Random, number: int) -> None:
    """Files of any tables: late, cancelled, changed, the same again, under an earlier name."""

    def day(low: int = 1, high: int = 9) -> str:
        return f"2024-03-{rng.randint(low, high):02d}"

    def sometimes(text: str) -> str:
        return text if rng.random() < 0.4 else ""

    rows = {
        "orders": lambda: (
            f"o{rng.randint(1, 6)},{rng.choice(['ann', 'bob'])},{day(1, 5)},"
            f"{sometimes(day(4))},{sometimes(day(2))}"
        ),
        "order_items": lambda: (
            f"o{rng.randint(1, 7)},{rng.randint(1, 2)},p{rng.randint(1, 3)},{rng.randint(1, 3)},"
            f"{rng.randint(1, 9)}.50,{sometimes(day(2))}"
        ),
        "products": lambda: f"p{rng.randint(1, 4)},c{rng.randint(1, 2)},{sometimes(day(2))}",
        "returns": lambda: (
            f"r{rng.randint(1, 4)},o{rng.randint(1, 7)},{rng.randint(1, 2)},1,"
            f"{sometimes('2.50')},{day(3)},{sometimes(day(4))}"
        ),
        "consents": lambda: (
            f"{rng.choice(['ann', 'bob'])},email,{rng.choice(['granted', 'revoked'])},"
            f"{day(1, 4)},{rng.choice(['marketing', 'survey'])},{sometimes(day(2))}"
        ),
    }
    headers = {
        "orders": "order_id,customer_id,ordered_at,cancelled_at,arrived_at",
        "order_items": "order_id,line_number,product_id,quantity,unit_price,cancelled_at",
        "products": "product_id,category,arrived_at",
        "returns": "return_id,order_id,line_number,quantity,amount,returned_at,arrived_at",
        "consents": "customer_id,channel,status,changed_at,purpose,arrived_at",
    }
    for table in rng.sample(sorted(rows), rng.randint(1, 4)):
        lines = [rows[table]() for _ in range(rng.randint(1, 5))]
        name = f"{rng.choice([number, number, 90 - number])}.csv"
        land(platform, table, name, "\n".join([headers[table], *lines, lines[0]]) + "\n")
    take_in(platform, "run", lambda text: None)


def grow(platform: Platform, seed: int, batches: int) -> int:
    """Deliver and build by turns, some days twice; return on how many turns the kept were wrong."""
    rng = random.Random(seed)
    all_kept = [f"+{name}" for name in KEPT]
    wrong = 0
    for number in range(1, batches + 1):
        if rng.random() < 0.7:
            deliver_at_random(platform, rng, number)
        for _ in range(rng.randint(1, 2)):
            build(platform, DAY + timedelta(days=rng.randint(0, 4)), [*ORDERS_ALONE, *all_kept])
        grown = tables(platform, KEPT)
        if not fresh(platform, grown):
            wrong += 1
    return wrong


def fresh(platform: Platform, grown: dict[str, list[Any]]) -> bool:
    """Whether another warehouse with the same raw tables, built from scratch, holds the same."""
    with platform.warehouse.connect() as connection:
        connection.execute("attach ':memory:' as scratch")
        for name in ("raw", "staging", "intermediate"):
            connection.execute(f"create schema scratch.{name}")
        for table in load_contract().tables:
            connection.execute(f"create table scratch.raw.{table.name} as from raw.{table.name}")
        for node in in_order(platform):
            kind = "view" if node["config"]["materialized"] == "view" else "table"
            sql = node["sql"].replace('"warehouse".', '"scratch".')
            connection.execute(f"create {kind} scratch.{node['schema']}.{node['name']} as {sql}")
        made = {
            name: connection.execute(f"from scratch.intermediate.{name} order by all").fetchall()
            for name in KEPT
        }
        connection.execute("detach scratch")
    return made == grown


def in_order(platform: Platform) -> list[dict[str, Any]]:
    """The kept tables and what they are made of, as dbt compiled it for the first build."""
    nodes = read_manifest()["nodes"]
    compiled = platform.home.dbt_target / "compiled" / "holdfast" / "models"
    found = {path.stem: path.read_text() for path in compiled.rglob("*.sql")}
    order: list[str] = []

    def place(unique_id: str) -> None:
        if unique_id in nodes and unique_id not in order:
            for parent in nodes[unique_id]["depends_on"]["nodes"]:
                place(parent)
            order.append(unique_id)

    for name in KEPT:
        place(f"model.holdfast.{name}")
    return [{**nodes[unique_id], "sql": found[nodes[unique_id]["name"]]} for unique_id in order]


def test_kept_is_what_a_rebuild_makes(platform: Platform) -> None:
    assert grow(platform, seed=1, batches=4) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 26))
def test_kept_is_what_a_rebuild_makes_of_many_deliveries(platform: Platform, seed: int) -> None:
    assert grow(platform, seed, batches=10) == 0


def test_what_is_kept_too_long_would_be_noticed(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warehouse, "generation", lambda connection: 1)
    assert grow(platform, seed=1, batches=4) > 0
