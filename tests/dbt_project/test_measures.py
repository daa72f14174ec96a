"""Measures are declared once: the contract, the documents and both kinds of SQL agree with it.

Belongs here: what a declaration promises (`vars: measures` of dbt_project.yml), column by column,
and that a new window needs nothing but its declaration. Does not belong here: what each measure of
today is (test_oracle).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
import yaml
from mart_project import PROJECT, Dbt
from oracle import Knowledge
from raw_world import make_world
from test_oracle import equal

from docs import generate
from ml.features import AGE, CONTEXT, FEATURES, NULLABLE

MEASURES: dict[str, Any] = yaml.safe_load((PROJECT / "dbt_project.yml").read_text())["vars"][
    "measures"
]
TYPES = {"count": "bigint", "sum": "bigint", "distinct": "bigint", "amount": "decimal(18,4)"}

# What features are made of, and no feature itself.
INGREDIENTS = {
    "answered_contact_count_365d",
    "delivered_count_180d",
    "delivery_sum_days_180d",
    "discounted_order_count_365d",
    "email_count_90d",
    "event_count_60d",
    "known_margin_amount_365d",
    "net_amount_365d",
    "returned_order_count_365d",
    "unknown_margin_order_count_365d",
}
# What is named like a measure and made of several.
DERIVED = {
    "average_order_amount_365d",
    "average_unit_price_amount_365d",
    "margin_amount_365d",
    "max_order_amount_365d",
}


@dataclass(frozen=True)
class Declared:
    """One column that the declaration of a measure makes."""

    group: str
    name: str
    kind: str
    window: int | None


def declared(measures: dict[str, Any]) -> list[Declared]:
    """Return every column of every measure, read without the macros."""
    return [
        Declared(
            group,
            of.get("name", f"{measure}_{window}d"),
            next(kind for kind in TYPES if kind in of),
            window,
        )
        for group, said in measures.items()
        for measure, of in said["measures"].items()
        for window in of["windows"]
    ]


DECLARED = declared(MEASURES)


def columns(path: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return model -> column -> what a properties file says of it."""
    models = yaml.safe_load((PROJECT / "models" / path).read_text())["models"]
    return {model["name"]: {c["name"]: c for c in model["columns"]} for model in models}


MARTS = columns("marts/_marts.yml")
CONTRACT = MARTS["customer_features"]
INTERMEDIATE = columns("intermediate/_intermediate.yml")


def nullable(column: dict[str, Any]) -> bool:
    return {"type": "not_null"} not in column.get("constraints", [])


def sql(name: str) -> str:
    (path,) = (PROJECT / "models").rglob(f"{name}.sql")
    return path.read_text()


def read_by(text: str) -> set[str]:
    """Return the declared columns that a model's SQL names."""
    words = set(re.findall(r"\w+", text))
    return {column.name for column in DECLARED if column.name in words}


def test_measures_that_features_read_are_features_or_parts_of_them() -> None:
    read = read_by(sql("customer_features"))
    assert read - set(CONTRACT) <= INGREDIENTS
    names = {column.name for column in DECLARED}
    assert read >= names & set(CONTRACT)
    assert names >= INGREDIENTS
    assert not INGREDIENTS & set(CONTRACT)


def test_no_measure_is_counted_for_nobody() -> None:
    texts = [path.read_text() for path in (PROJECT / "models").rglob("*.sql")]
    read = set().union(*map(read_by, texts)) | set(MARTS["customer_status"])
    assert not {column.name for column in DECLARED} - read


def test_what_is_named_like_a_measure_is_declared() -> None:
    named = {name for name in CONTRACT if re.search(r"_(count|amount)_\d+d$", name)}
    assert named - {column.name for column in DECLARED} == DERIVED


@pytest.mark.parametrize(
    "column", [c for c in DECLARED if c.name in CONTRACT], ids=lambda c: f"{c.group}-{c.name}"
)
def test_contract_and_documents_agree_with_the_declaration(column: Declared) -> None:
    said = CONTRACT[column.name]
    description = " ".join(said["description"].split())
    assert said["data_type"] == TYPES[column.kind]
    # Sums and counts of nothing are zero; one that may be missing says when.
    assert not nullable(said) or "null" in description
    if column.window is not None:
        assert re.search(rf"\b{column.window}\b", description), description
    if re.search(r"_\d+d$", column.name):
        assert generate.window(column.name) == f"last {column.window} days"
    else:
        assert column.name in generate.WINDOWS
    if column.name in FEATURES:
        assert (column.name in NULLABLE) == nullable(said)


@pytest.mark.parametrize("column", DECLARED, ids=lambda c: f"{c.group}-{c.name}")
def test_the_model_of_a_measure_documents_it(column: Declared) -> None:
    (model,) = [
        name for name in INTERMEDIATE if re.search(rf"windowed\(\s*'{column.group}'", sql(name))
    ]
    description = INTERMEDIATE[model][column.name]["description"]
    if column.window is not None:
        assert re.search(rf"\b{column.window}\b", description), description


def test_features_and_what_may_be_missing_are_those_of_the_contract() -> None:
    assert (*CONTEXT, *FEATURES) == tuple(CONTRACT)
    may_be_missing = {name for name in CONTRACT if nullable(CONTRACT[name])} - set(CONTEXT)
    assert may_be_missing == NULLABLE - {AGE}


# A new window, the feature in whose place the mart shows it, and the same by hand.
NEW: dict[str, tuple[str, str, int, str, Callable[[Knowledge, str], Any]]] = {
    "count": (
        "orders",
        "order_count",
        14,
        "orders.order_count_30d",
        lambda k, c: len(k.valid(c, 14)),
    ),
    "distinct": (
        "orders",
        "order_day_count",
        60,
        "orders.order_day_count_365d",
        lambda k, c: len({o["occurred_date"] for o in k.valid(c, 60)}),
    ),
    "amount": (
        "returns",
        "return_amount",
        90,
        "returns.return_amount_365d",
        lambda k, c: sum(
            (
                refund(k, row)
                for row in k.rows["returns"]
                if row["order_id"] in {o["order_id"] for o in k.by_customer[c]}
                and k.age(row["occurred_date"]) < 90
            ),
            Decimal(0),
        ),
    ),
    "sum": (
        "orders",
        "item_count",
        100,
        "orders.item_count_365d",
        lambda k, c: sum(o["units"] for o in k.valid(c, 100)),
    ),
    # Longer than any window of events today: the days that are read must follow.
    "longest": (
        "engagement",
        "event_count",
        200,
        "engagement.event_count_90d",
        lambda k, c: sum(
            e["event_type"] not in ("email_open", "email_click") for e in k.of("events", c, 200)
        ),
    ),
    "another group": (
        "contacts",
        "contact_count",
        120,
        "contacts.contact_count_90d",
        lambda k, c: len(k.of("deliveries", c, 120)),
    ),
}


def refund(known: Knowledge, row: dict[str, Any]) -> Decimal:
    """What a return was worth, by hand."""
    if row["amount"] is not None:
        return Decimal(str(row["amount"])).quantize(Decimal("0.0001"))
    (order,) = [o for o in known.orders if o["order_id"] == row["order_id"]]
    prices = [x["price"] for x in order["lines"] if x["line_number"] == row["line_number"]]
    return sum(prices, Decimal(0)) * row["quantity"]


def with_new_windows() -> dict[str, Any]:
    changed = copy.deepcopy(MEASURES)
    for group, measure, window, _, _ in NEW.values():
        changed[group]["measures"][measure]["windows"].append(window)
    return changed


@pytest.mark.parametrize("what", NEW)
@pytest.mark.parametrize(
    "days",
    [[date(2025, 2, 1)], [date(2024, 11, 3), date(2025, 1, 30), date(2025, 1, 31)]],
    ids=["one day", "many days"],
)
def test_a_window_needs_nothing_but_its_declaration(dbt: Dbt, what: str, days: list[date]) -> None:
    _, measure, window, shown, by_hand = NEW[what]
    alias, column = shown.split(".")
    world = make_world(seed=17, late_share=0.25, redelivered_share=0.25)
    right = f"coalesce({shown}, 0)"
    marts = dbt.run(
        world,
        snapshot_dates=[day.isoformat() for day in days],
        measures=with_new_windows(),
        faults={
            "customer_features": {right: f"coalesce({alias}.{measure}_{window}d, 0)"},
        },
    )["customer_features"]
    other = 0
    for day in days:
        known = Knowledge(world, day)
        rows = marts[marts["snapshot_date"] == day].set_index("customer_key")
        assert list(rows.index) == known.population()
        for key, row in rows.iterrows():
            expected = by_hand(known, str(key))
            assert equal(row[column], expected), (key, day, row[column], expected)
            old = known.features(str(key))[column]
            other += not equal(row[column], old)
    assert other > 0, "the new window never differs from the old one"
