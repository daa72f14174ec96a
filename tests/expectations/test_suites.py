"""Suites from declarations: what they contain, when their version changes, what is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest
from good_frames import declared_tables

from expectations.library import ExpectColumnsNotToMatchRegex
from expectations.rules import CONTACT_PATTERN, RFM_SEGMENTS, RULES, Rule
from expectations.schema import Column, Table
from expectations.suites import suite_for

TABLE = Table(
    "small",
    1,
    ("customer_key",),
    (Column("customer_key", "string", False), Column("amount", "decimal", True, Decimal("0.5"))),
    "",
)


@pytest.mark.parametrize("name", sorted(declared_tables()))
def test_every_suite_has_its_structure(name: str) -> None:
    table = declared_tables()[name]
    suite = suite_for(table)
    names = [expectation.name for expectation in suite.expectations]
    assert len(names) == len(set(names))
    assert {"row_count", "columns", "types", "complete", "primary_key"} <= set(names)
    assert ("partition" in names) == bool(table.partition_by)
    numeric = any(c.type in ("integer", "decimal", "double") for c in table.columns)
    assert ("finite" in names) == numeric
    assert all(expectation.reason for expectation in suite.expectations)


def test_every_rule_belongs_to_a_declared_table() -> None:
    assert set(RULES) <= set(declared_tables())


def test_raw_rules_warn() -> None:
    for name, rules in RULES.items():
        if name.startswith("raw_"):
            assert {rule.severity for rule in rules} == {"warning"}


def test_version_is_that_of_the_content() -> None:
    same = suite_for(dataclasses.replace(TABLE))
    assert suite_for(TABLE).version == same.version
    changed = [
        dataclasses.replace(TABLE, may_be_empty=True),
        dataclasses.replace(TABLE, columns=(TABLE.columns[0], Column("amount", "double", True))),
        dataclasses.replace(TABLE, primary_key=("customer_key", "amount")),
    ]
    versions = {suite_for(table).version for table in (TABLE, *changed)}
    assert len(versions) == 4


def test_parameters_reach_the_rules_and_the_version() -> None:
    table = declared_tables()["churn_labels"]
    usual, other = suite_for(table), suite_for(table, {"horizon_days": 30})
    assert usual.version != other.version
    (rule,) = [e for e in other.expectations if e.name == "horizon_has_passed"]
    assert "horizon_days = 30" in rule.arguments["condition"]


def test_unknown_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="horizon_weeks"):
        suite_for(TABLE, {"horizon_weeks": 3})


def test_rule_on_a_column_that_is_gone_is_refused() -> None:
    table = declared_tables()["churn_scores"]
    less = dataclasses.replace(
        table, columns=tuple(c for c in table.columns if c.name != "churn_decile")
    )
    with pytest.raises(ValueError, match=r"deciles_balanced.*churn_decile"):
        suite_for(less)


def test_columns_of_a_rule_are_found_in_its_condition() -> None:
    rule = Rule(
        "made up",
        "abs(a_b - sum(c1) OVER (PARTITION BY d)) < {window_days} AND e = 'not_a_column'",
        "for a test",
    )
    assert rule.columns == ("a_b", "c1", "d", "e")


def test_eleven_segments() -> None:
    assert len(set(RFM_SEGMENTS)) == 11


def test_segments_are_those_of_the_model() -> None:
    from ml import rfm

    assert set(RFM_SEGMENTS) == set(rfm.RFM_SEGMENTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"primary_key": ("nobody",)}, "nobody"),
        ({"partition_by": "nobody"}, "nobody"),
        ({"columns": TABLE.columns * 2}, "declared twice"),
    ],
)
def test_impossible_table_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TABLE, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "column",
    [
        lambda: Column("a", "float", False),  # type: ignore[arg-type]
        lambda: Column("a", "integer", False, minimum=2, maximum=1),
        lambda: Column("a", "string", False, allowed=()),
    ],
)
def test_impossible_column_is_refused(column: Callable[[], Column]) -> None:
    with pytest.raises(ValueError, match="column a"):
        column()


def test_declarations_and_suites_load_without_the_library() -> None:
    code = (
        "import sys, expectations.schema, expectations.suites, expectations.docs\n"
        "heavy = {'great_expectations', 'duckdb', 'pandas', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("regex", "has"),
    [
        (CONTACT_PATTERN, True),
        ("a@b", True),
        ("a|@", False),
        ("(a@)?b", False),
        ("a@?", False),
        ("a@*b", False),
        ("a@{0,1}b", False),
        ("[@]b", False),
    ],
)
def test_an_at_is_looked_for_first_only_where_every_match_has_one(regex: str, has: bool) -> None:
    """Else a text without one would be passed though it matches."""
    [flaw] = ExpectColumnsNotToMatchRegex(columns=["text"], regex=regex).flaws().values()
    assert flaw.startswith("contains(") == has
    text = pa.table({"text": ["ada@example.org", "b", "", None, "ab", "a@b"]})
    plain = f"regexp_matches(text, '{regex}')"
    with duckdb.connect() as database:
        database.register("told", text)
        found = [
            database.execute(f"SELECT count(*) FILTER (WHERE {sql}) FROM told").fetchone()
            for sql in (flaw, plain)
        ]
    assert found[0] == found[1]
