"""The verdict: what cannot pass, what cannot crash, what cannot leak."""

from __future__ import annotations

import dataclasses
import datetime
import gc
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest
from good_frames import DAY, declared_tables, good
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expectations.audit import AuditResult, audit, audit_suite
from expectations.docs import DocsSite
from expectations.schema import Column, Table
from expectations.suites import Expectation, Suite, suite_for

CANARY = "zz-canary-7f3a@example.test"
KEY = "deadbeef" * 4

SMALL = Table(
    "small",
    1,
    ("snapshot_date", "customer_key"),
    (
        Column("snapshot_date", "date", nullable=False),
        Column("customer_key", "string", nullable=False),
        Column("ratio", "double", nullable=True),
        Column("count", "integer", nullable=True, minimum=0),
        Column("word", "string", nullable=True),
    ),
    "snapshot_date",
)


def batch(rows: int = 3) -> pa.Table:
    return pa.table(
        {
            "snapshot_date": pa.array([DAY] * rows),
            "customer_key": [f"{i:032x}" for i in range(rows)],
            "ratio": pa.array([None, 0.5, 1.5][:rows]),
            "count": pa.array([None, 1, 2][:rows], pa.int64()),
            "word": pa.array(["a", None, "b"][:rows], pa.string()),
        }
    )


def set_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def types_of(result: AuditResult) -> set[str]:
    return {failure.expectation_type for failure in result.failures}


def test_good_batch_passes() -> None:
    result = audit(batch(), SMALL, DAY)
    assert result.passed
    assert result.failures == ()
    assert result.evaluated == result.expected
    assert result.suite_version == suite_for(SMALL).version


def test_plain_pandas_passes_where_nulls_widened_its_types() -> None:
    frame = batch().to_pandas()
    assert frame["count"].dtype == np.float64
    assert audit(frame, SMALL, DAY).passed


def test_plain_pandas_with_fractions_in_an_integer_fails() -> None:
    frame = batch().to_pandas().assign(count=[None, 1.5, 2.0])
    assert types_of(audit(frame, SMALL, DAY)) == {"expect_types_to_match_declaration"}


def test_empty_batch_fails_where_rows_are_due() -> None:
    for empty in (batch().slice(0, 0), batch().to_pandas().iloc[:0]):
        result = audit(empty, SMALL, DAY)
        assert not result.passed
        assert types_of(result) == {"expect_table_row_count_to_be_between"}


def test_empty_batch_passes_where_declared() -> None:
    assert audit(batch().slice(0, 0), dataclasses.replace(SMALL, may_be_empty=True), DAY).passed


def test_frame_without_rows_and_columns_fails() -> None:
    assert not audit(pd.DataFrame(), SMALL, DAY).passed


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_fails(value: float) -> None:
    bad = set_column(batch(), "ratio", pa.array([0.1, value, 0.2]))
    result = audit(bad, SMALL, DAY)
    assert [(f.column, f.unexpected_count) for f in result.failures] == [("ratio", 1)]
    assert types_of(result) == {"expect_columns_to_be_finite"}


def test_column_of_nan_fails() -> None:
    bad = set_column(batch(), "ratio", pa.array([float("nan")] * 3))
    assert types_of(audit(bad, SMALL, DAY)) == {"expect_columns_to_be_finite"}


def test_infinity_in_plain_pandas_fails() -> None:
    bad = batch().to_pandas().assign(ratio=[0.0, np.inf, np.nan])
    assert types_of(audit(bad, SMALL, DAY)) == {"expect_columns_to_be_finite"}


def test_nan_in_plain_pandas_fails_where_null_is_not_allowed() -> None:
    table = dataclasses.replace(
        SMALL,
        columns=tuple(
            dataclasses.replace(c, nullable=False) if c.name == "ratio" else c
            for c in SMALL.columns
        ),
    )
    assert types_of(audit(batch().to_pandas(), table, DAY)) == {"expect_columns_to_be_complete"}


@pytest.mark.parametrize("name", SMALL.column_names)
def test_missing_column_fails_and_is_named(name: str) -> None:
    result = audit(batch().drop_columns([name]), SMALL, DAY)
    assert not result.passed
    assert result.failures[0].expectation_type == "expect_columns_to_match_declaration"
    assert result.failures[0].column == name


def test_undeclared_column_fails_without_its_name() -> None:
    result = audit(batch().append_column(CANARY, pa.array([1, 2, 3])), SMALL, DAY)
    assert types_of(result) == {"expect_columns_to_match_declaration"}
    assert CANARY not in repr(result)


def test_column_that_stands_twice_fails() -> None:
    twice = batch().append_column("word", pa.array(["a", "b", "c"]))
    result = audit(twice, SMALL, DAY)
    assert not result.passed
    assert "expect_columns_to_match_declaration" in types_of(result)


def test_column_of_mixed_types_fails() -> None:
    frame = batch().to_pandas()
    frame["count"] = pd.Series([1, CANARY, None], dtype=object)
    result = audit(frame, SMALL, DAY)
    assert not result.passed
    assert "expect_types_to_match_declaration" in types_of(result)
    assert CANARY not in repr(result)


def test_row_of_another_day_fails() -> None:
    result = audit(batch(), SMALL, DAY + datetime.timedelta(days=1))
    assert types_of(result) == {"expect_column_to_equal_partition"}


def test_identifier_in_place_of_the_key_fails() -> None:
    bad = set_column(batch(), "customer_key", pa.array([CANARY, "b" * 32, "c" * 32]))
    assert not audit(bad, SMALL, DAY).passed


def _suite(*expectations: Expectation) -> Suite:
    return Suite(SMALL.name, expectations)


def _condition(condition: str, severity: str = "critical", scope: str = "rows") -> Expectation:
    return Expectation(
        "made up", f"expect_{scope}_to_satisfy", severity, "for a test",  # type: ignore[arg-type]
        f'{{"condition": "{condition}"}}',
    )  # fmt: skip


def test_suite_without_expectations_fails() -> None:
    result = audit_suite(batch(), SMALL, DAY, _suite())
    assert not result.passed
    assert (result.expected, result.evaluated) == (0, 0)
    assert result.failures


@pytest.mark.parametrize(
    "condition",
    [
        "CAST(word AS INTEGER) > 0",  # raises on the data
        "no_such_column > 0",  # raises on the schema
        "(SELECT count(*) FROM read_text('pyproject.toml')) >= 0",  # outside the batch
        "word >",  # no condition at all
    ],
)
@pytest.mark.parametrize("severity", ["critical", "warning"])
def test_expectation_that_raises_fails_whatever_its_severity(condition: str, severity: str) -> None:
    good_one = _condition("TRUE")
    suite = _suite(
        dataclasses.replace(good_one, name="fine"), _condition(condition, severity=severity)
    )
    result = audit_suite(batch(), SMALL, DAY, suite)
    assert not result.passed
    assert (result.expected, result.evaluated) == (2, 1)
    assert "raised" in result.failures[0].message


def test_expectation_that_does_not_exist_fails() -> None:
    suite = _suite(Expectation("made up", "expect_the_unexpected", "critical", "for a test", "{}"))
    result = audit_suite(batch(), SMALL, DAY, suite)
    assert not result.passed
    assert result.evaluated == 0


def test_result_that_goes_missing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import expectations.audit as module

    original = module._validate

    def lossy(*args: object) -> object:
        result = original(*args)  # type: ignore[arg-type]
        result.results = result.results[:-1]
        return result

    monkeypatch.setattr(module, "_validate", lossy)
    result = audit(batch(), SMALL, DAY)
    assert not result.passed
    assert result.evaluated == result.expected - 1


def test_warning_is_told_and_does_not_block() -> None:
    suite = _suite(_condition("ratio < 1", severity="warning"))
    result = audit_suite(batch(), SMALL, DAY, suite)
    assert result.passed
    assert [w.unexpected_count for w in result.warnings] == [1]


def test_unknown_passes_in_rows_and_fails_in_the_table() -> None:
    assert audit_suite(batch(), SMALL, DAY, _suite(_condition("NULL"))).passed
    assert not audit_suite(batch(), SMALL, DAY, _suite(_condition("NULL", scope="table"))).passed


def test_same_batch_again_gives_the_same_verdict() -> None:
    results = {audit(good("churn_scores"), declared_tables()["churn_scores"], DAY)}
    results |= {audit(good("churn_scores"), declared_tables()["churn_scores"], DAY)}
    assert len(results) == 1


def test_fifty_audits_leave_no_memory_behind() -> None:
    table = declared_tables()["customer_features"]
    many = pa.concat_tables([good("customer_features")] * 60)  # 7,200 x 72: 3.9 MB each
    process = psutil.Process()

    def resident() -> float:
        gc.collect()
        pa.default_memory_pool().release_unused()
        return process.memory_info().rss / 2**20

    for _ in range(10):
        audit(many, table, DAY)
    before = resident()
    for _ in range(40):
        audit(many, table, DAY)
    assert resident() - before < 40, "40 batches of 3.9 MB would be 156"


def test_batch_does_not_outlive_its_audit() -> None:
    from expectations.library import _database

    audit(batch(), SMALL, DAY)
    assert _database().execute("SHOW ALL TABLES").fetchall() == []


BAD_WITH_CANARIES = [
    lambda: set_column(batch(), "word", pa.array([CANARY, "x", "y"])),
    lambda: set_column(batch(), "customer_key", pa.array([KEY, KEY, CANARY])),
    lambda: set_column(batch(), "count", pa.array([CANARY, KEY, "1"])),
    lambda: set_column(batch(), "ratio", pa.array([CANARY, KEY, "0.5"])),
    lambda: set_column(batch(), "snapshot_date", pa.array([CANARY, KEY, "2024-03-01"])),
    lambda: batch().rename_columns([CANARY, KEY, "ratio", "count", "word"]),
    lambda: batch().to_pandas().assign(count=[{"who": CANARY}, KEY, 3]),
]


@pytest.mark.parametrize("number", range(len(BAD_WITH_CANARIES)))
def test_no_value_of_the_batch_leaks(
    number: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    site = DocsSite(tmp_path)
    with caplog.at_level(logging.DEBUG):
        result = audit(BAD_WITH_CANARIES[number](), SMALL, DAY, docs=site)
    assert not result.passed
    site.build()
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    out, err = capfd.readouterr()
    told = "".join([repr(result), result.summary(), caplog.text, out, err]).encode()
    for canary in (CANARY.encode(), KEY.encode()):
        assert canary not in told
        assert not any(canary in content for content in written)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.sampled_from([*SMALL.column_names, "other"]),
        st.lists(
            st.one_of(
                st.none(), st.floats(), st.integers(), st.text(max_size=5), st.dates(),
                st.booleans(), st.binary(max_size=3), st.decimals(allow_nan=True),
            ),
            min_size=4, max_size=4,
        ),
    )
)  # fmt: skip
def test_rubbish_fails_and_never_crashes(columns: dict[str, list[object]]) -> None:
    frame = pd.DataFrame({name: pd.Series(v, dtype=object) for name, v in columns.items()})
    result = audit(frame, SMALL, DAY)
    # four rows by chance of one partition with four keyed hashes do not happen
    assert not result.passed
    assert result.failures
