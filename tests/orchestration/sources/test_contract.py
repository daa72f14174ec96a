from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestration.defs.sources import contract as module
from orchestration.defs.sources.contract import (
    ContractError,
    dbt_sources_yaml,
    load_contract,
    parse_contract,
    raw_columns,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def document() -> Any:
    text = Path(module.__file__).with_name("contract.yaml").read_text()
    return copy.deepcopy(yaml.safe_load(text))


def test_only_three_tables_are_required() -> None:
    required = [table.name for table in load_contract().tables if table.required]
    assert required == ["customers", "orders", "order_items"]


def test_orders_are_loaded_before_their_lines() -> None:
    names = [table.name for table in load_contract().tables]
    assert names.index("orders") < names.index("order_items")


def test_raw_columns_hold_no_identifier() -> None:
    for table in load_contract().tables:
        names = [column.name for column in raw_columns(table)]
        assert not set(names) & {"customer_id", "email", "phone"}
        assert len(names) == len(set(names))
    assert "name" not in [c.name for c in raw_columns(load_contract().table("customers"))]
    assert "name" in [c.name for c in raw_columns(load_contract().table("products"))]


def test_raw_columns_of_orders() -> None:
    assert [(c.name, c.type) for c in raw_columns(load_contract().table("orders"))] == [
        ("order_id", "VARCHAR"),
        ("customer_key", "VARCHAR"),
        ("ordered_at", "TIMESTAMP"),
        ("delivered_at", "TIMESTAMP"),
        ("cancelled_at", "TIMESTAMP"),
        ("discount_amount", "DECIMAL(18,4)"),
        ("shipping_amount", "DECIMAL(18,4)"),
        ("channel", "VARCHAR"),
        ("arrived_at", "TIMESTAMP"),
        ("occurred_date", "DATE"),
        ("arrived_date", "DATE"),
        ("_file_id", "INTEGER"),
        ("_line", "INTEGER"),
        ("_is_current", "BOOLEAN"),
        ("_superseded_date", "DATE"),
    ]


def test_committed_dbt_sources_are_the_generated_ones() -> None:
    committed = (ROOT / "dbt_project/models/staging/_sources.yml").read_text()
    assert committed == dbt_sources_yaml(load_contract())


def test_every_column_is_described() -> None:
    for table in load_contract().tables:
        assert all(re.search(r"\.$|;", column.description) for column in raw_columns(table))


def _nullable_key(d: Any) -> None:
    d["tables"]["returns"]["primary_key"] = ["line_number"]


def _optional_event_time(d: Any) -> None:
    d["tables"]["orders"]["event_time"] = "delivered_at"


def _unknown_type(d: Any) -> None:
    d["tables"]["orders"]["columns"]["channel"]["type"] = "text"


def _misspelt_property(d: Any) -> None:
    d["tables"]["orders"]["columns"]["channel"]["requird"] = True


def _default_of_a_number(d: Any) -> None:
    d["tables"]["returns"]["columns"]["line_number"]["default"] = "1"


def _default_of_what_must_be_there(d: Any) -> None:
    d["tables"]["orders"]["columns"]["order_id"]["default"] = "none"


def _key_without_its_default(d: Any) -> None:
    del d["tables"]["consents"]["columns"]["purpose"]["default"]


def _outcome_that_is_no_time(d: Any) -> None:
    d["tables"]["orders"]["columns"]["channel"]["outcome"] = True


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_nullable_key, r"returns.*key"),
        (_optional_event_time, r"orders.*event_time"),
        (_unknown_type, r"orders\.channel.*text"),
        (_misspelt_property, r"orders\.channel.*requird"),
        (_default_of_a_number, r"returns\.line_number.*default"),
        (_default_of_what_must_be_there, r"orders\.order_id.*no default"),
        (_key_without_its_default, r"consents.*purpose"),
        (_outcome_that_is_no_time, r"orders\.channel.*timestamp"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(
    document: Any, spoil: Any, words: str
) -> None:
    assert parse_contract(document) == load_contract()
    spoil(document)
    with pytest.raises(ContractError, match=words):
        parse_contract(document)
