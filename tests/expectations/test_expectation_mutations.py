"""Every expectation of every suite trips on bad data made for it, and good data passes all."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pytest
from good_frames import ARROW, DAY, HORIZON, ROWS, customer, declared_tables, good

from expectations import library
from expectations.audit import AuditResult, Batch, _in_the_library, audit, audit_range
from expectations.schema import Table
from expectations.suites import Expectation, suite_for

Mutation = Callable[[pa.Table], pa.Table]
ALL = sorted(declared_tables())


def judge(batch: pa.Table, table: Table) -> AuditResult:
    """The verdict on a batch, which the query over a range sees as well, between two good days."""
    alone = audit(batch, table, DAY)
    days = [DAY - datetime.timedelta(days=2), DAY, DAY + datetime.timedelta(days=2)]
    frames = [moved(good(table.name), -2), batch, moved(good(table.name), 2)]
    told = alone.failures + alone.warnings
    suite = _in_the_library(suite_for(table))
    seen = library.spotless(dict(zip(days, frames, strict=True)), suite)
    library.release()
    # The query itself must see the flaw: `audit` must not be what saves the day.
    assert (DAY in seen) == (not told and table.name not in AUDITED_ALONE)
    if batch.schema == frames[0].schema and table.name not in AUDITED_ALONE:
        assert {days[0], days[2]} <= seen
    return alone


@pytest.mark.parametrize("name", ALL)
def test_a_range_is_judged_as_its_days_are(name: str) -> None:
    """Same suite, same verdict, same words; a bad day leaves its neighbours alone."""
    table = declared_tables()[name]
    bad = good(name).slice(0, 0) if not table.may_be_empty else good(name).select([0])
    days = [DAY - datetime.timedelta(days=2), DAY, DAY + datetime.timedelta(days=2)]
    frames = [moved(good(name), -2), bad, moved(good(name), 2)]
    batches = [Batch(frame, table, day) for frame, day in zip(frames, days, strict=True)]
    assert audit_range(batches) == [audit(b.frame, b.table, b.partition) for b in batches]
    assert [result.passed for result in audit_range(batches)] == [True, False, True]


#: A rule of these looks at all rows at once in a way that cannot be confined to a partition.
AUDITED_ALONE = {"campaign_assignments"}


def moved(batch: pa.Table, days: int) -> pa.Table:
    """The same rows some days later."""
    for i, field in enumerate(batch.schema):
        if pa.types.is_date(field.type):
            later = [
                v if v is None else v + datetime.timedelta(days=days)
                for v in batch.column(i).to_pylist()
            ]
            batch = batch.set_column(i, field.name, pa.array(later, field.type))
    return batch


def failed_names(result: AuditResult) -> set[str]:
    """Names of the expectations that did not succeed, in whatever way."""
    return {
        told.message.split(":")[0].split(" raised ")[0]
        for told in (*result.failures, *result.warnings)
    }


def set_values(column: str, values: dict[int, Any]) -> Mutation:
    """Replace single values of a column, keeping its type."""

    def mutate(batch: pa.Table) -> pa.Table:
        i = batch.column_names.index(column)
        new = batch.column(i).to_pylist()
        for row, value in values.items():
            new[row] = value
        return batch.set_column(i, column, pa.array(new, type=batch.schema.field(i).type))

    return mutate


def fill(column: str, value: Any) -> Mutation:
    return set_values(column, dict.fromkeys(range(ROWS), value))


def both(*mutations: Mutation) -> Mutation:
    def mutate(batch: pa.Table) -> pa.Table:
        for one in mutations:
            batch = one(batch)
        return batch

    return mutate


def swap(first: int, second: int, *columns: str) -> Mutation:
    """Exchange the values of two rows."""

    def mutate(batch: pa.Table) -> pa.Table:
        for name in columns:
            values = batch.column(name).to_pylist()
            batch = set_values(name, {first: values[second], second: values[first]})(batch)
        return batch

    return mutate


def retype(column: str, type_: pa.DataType) -> Mutation:
    def mutate(batch: pa.Table) -> pa.Table:
        i = batch.column_names.index(column)
        return batch.set_column(i, column, batch.column(i).cast(type_))

    return mutate


# --------------------------------------------------------------------- structure, from declarations


def structural_mutations(expectation: Expectation, table: Table) -> Iterator[Mutation]:
    """Candidates, one of which must make this expectation fail and no other."""
    arguments = expectation.arguments
    columns = {column.name: column for column in table.columns}
    match expectation.name:
        case "row_count":
            yield lambda batch: batch.slice(0, 0)
        case "columns":
            order = [*table.column_names[:-2], *reversed(table.column_names[-2:])]
            yield lambda batch: batch.select(order)
        case "types":
            wrong = {
                "integer": pa.uint64(),
                "decimal": pa.decimal128(30, 6),
                "double": pa.float32(),
                "string": pa.binary(),
                "timestamp": pa.timestamp("us", tz="Europe/Berlin"),
            }
            for name in reversed(table.column_names):
                if columns[name].type in wrong:
                    yield retype(name, wrong[columns[name].type])
        case "complete":
            for name in reversed(arguments["columns"]):
                yield set_values(name, {5: None})
        case "finite":
            doubles = [n for n in arguments["columns"] if columns[n].type == "double"]
            for name in doubles:
                for value in (float("nan"), float("inf"), float("-inf")):
                    yield set_values(name, {5: value})
                    yield set_values(name, {6: value})
        case "bounds":
            for name, (low, high) in arguments["bounds"].items():
                step = Decimal("0.0001") if columns[name].type == "decimal" else 1
                for bound, beyond in ((low, -step), (high, step)):
                    if bound is not None:
                        kind = Decimal if columns[name].type == "decimal" else type(step)
                        for row in (0, 5, 6):
                            yield set_values(name, {row: kind(bound) + beyond})
        case "allowed":
            for name in arguments["allowed"]:
                yield set_values(name, {5: "unheard of"})
        case "primary_key":
            keys = [name for name in table.primary_key if name != table.partition_by]

            def double_key(batch: pa.Table) -> pa.Table:
                for name in keys:
                    batch = set_values(name, {6: batch.column(name)[5].as_py()})(batch)
                return batch

            yield double_key
        case "partition":
            yield set_values(table.partition_by, {5: DAY - datetime.timedelta(days=1)})
            yield set_values(table.partition_by, {5: DAY + datetime.timedelta(days=1)})
        case "customer_key":
            yield set_values("customer_key", {5: "C0000212"})
        case "no_contact_details":
            for name in arguments["columns"]:
                yield set_values(name, {5: "zz-canary-7f3a@example.test"})


#: Where bad data cannot break one expectation alone: what else it must break.
ENTAILED: dict[tuple[str, str], set[str]] = {
    # whole numbers and decimals are finite by type, so NaN needs a column of another type
    # and in SQL NaN is above every bound
    **{(name, "finite"): {"types", "bounds"} for name in ALL},
    ("churn_scores", "finite"): {
        "bounds",
        "rank_is_total_order",
        "margin_at_risk_agrees",
        "mean_probability_plausible",
    },
    ("churn_scores", "bounds"): {"margin_at_risk_agrees"},
    ("at_risk_list", "finite"): {"bounds", "margin_at_risk_agrees"},
    ("campaign_assignments", "finite"): {"bounds", "draws_below_one"},
    ("uplift_scores", "no_contact_details"): {"one_model_per_offer"},
    ("offer_policy", "primary_key"): {"propensities_sum_to_one", "everybody_has_a_policy"},
    # a label of another day is due on another day
    ("churn_labels", "partition"): {"horizon_has_passed"},
    ("customer_status", "partition"): {"recency_agrees_with_date", "tenure_agrees_with_date"},
    ("campaign_outcomes", "partition"): {"told_when_due"},
}  # fmt: skip


STRUCTURAL = {
    "row_count", "columns", "types", "complete", "finite", "bounds", "allowed", "primary_key",
    "partition", "customer_key", "no_contact_details",
}  # fmt: skip


def nan_in_numeric(column: str) -> Mutation:
    def mutate(batch: pa.Table) -> pa.Table:
        values = [float("nan"), *[float(v or 0) for v in batch.column(column).to_pylist()[1:]]]
        i = batch.column_names.index(column)
        return batch.set_column(i, column, pa.array(values, type=pa.float64()))

    return mutate


STRUCTURAL_CASES = [
    pytest.param(name, expectation, id=f"{name}-{expectation.name}")
    for name in ALL
    for expectation in suite_for(declared_tables()[name]).expectations
    if expectation.name in STRUCTURAL
    # zero rows are legal there: the row count is on the record, and cannot fail
    and not (expectation.name == "row_count" and declared_tables()[name].may_be_empty)
]


@pytest.mark.parametrize(("name", "expectation"), STRUCTURAL_CASES)
def test_structure_trips_on_its_bad_data(name: str, expectation: Expectation) -> None:
    table = declared_tables()[name]
    seen = []
    for mutate in structural_mutations(expectation, table):
        result = judge(mutate(good(name)), table)
        seen.append(failed_names(result))
        if seen[-1] == {expectation.name}:
            assert not result.passed
            return
    if expectation.name == "finite":
        for column in expectation.arguments["columns"]:
            result = judge(nan_in_numeric(column)(good(name)), table)
            seen.append(failed_names(result))
            assert not result.passed
    entailed = {expectation.name, *ENTAILED.get((name, expectation.name), set())}
    fitting = [found for found in seen if expectation.name in found and found <= entailed]
    assert fitting, f"{expectation.name} alone never failed; what failed: {seen}"


@pytest.mark.parametrize("name", ALL)
def test_good_batch_passes_without_a_warning(name: str) -> None:
    table = declared_tables()[name]
    result = judge(good(name), table)
    assert result.passed, result.summary()
    assert not result.warnings
    assert result.evaluated == result.expected == len(suite_for(table).expectations) > 0


# --------------------------------------------------------------------- business rules


LATE = datetime.datetime(2024, 3, 1, 11, tzinfo=datetime.UTC)
TOMORROW = DAY + datetime.timedelta(days=1)

BAD: dict[str, dict[str, Mutation]] = {
    "raw_orders": {
        "delivered_at_not_before_ordered_at": set_values("delivered_at", {5: LATE}),
        "cancelled_at_not_before_ordered_at": set_values("cancelled_at", {5: LATE}),
    },
    "raw_order_items": {
        "cancelled_within_quantity": set_values("cancelled_quantity", {5: 3}),
    },
    "raw_products": {"sold_above_cost": fill("unit_cost", Decimal(11))},
    "raw_coupons": {
        "redeemed_at_not_before_issued_at": set_values("redeemed_at", {5: LATE}),
        "expires_at_not_before_issued_at": set_values("expires_at", {5: LATE}),
    },
    "raw_consents": {"expires_at_not_before_changed_at": set_values("expires_at", {5: LATE})},
    "raw_support_tickets": {"closed_at_not_before_opened_at": set_values("closed_at", {5: LATE})},
    "raw_deliveries": {
        "opened_at_not_before_sent_at": set_values("opened_at", {5: LATE}),
        "clicked_at_not_before_sent_at": set_values("clicked_at", {5: LATE}),
    },
    "orders": {
        "revenue_adds_up": set_values("revenue_amount", {5: Decimal("7.01")}),
        "cancelled_earns_nothing": set_values("is_wholly_cancelled", {5: True}),
        "margin_known_agrees": set_values("margin_amount", {5: None}),
        "nothing_after_the_snapshot": set_values("ordered_date", {5: TOMORROW}),
        "delivered_at_not_before_ordered_at": set_values("delivered_at", {5: LATE}),
    },
    "order_lines": {
        "cancelled_within_quantity": set_values("cancelled_quantity", {5: 3}),
        "net_within_gross": set_values("net_amount", {5: Decimal("10.01")}),
        "margin_known_agrees": set_values("net_margin_amount", {5: None}),
        "nothing_after_the_snapshot": set_values("ordered_date", {5: TOMORROW}),
    },
    "deliveries": {
        "nothing_after_the_snapshot": set_values("sent_date", {5: TOMORROW}),
        "opened_at_not_before_sent_at": set_values("opened_at", {5: LATE}),
        "clicked_at_not_before_sent_at": set_values("clicked_at", {5: LATE}),
    },
    "customer_features": {
        # an older window with fewer orders than a lifetime allows is the one free end
        "order_count_nested": set_values("order_count_lifetime", {5: 1}),
        "event_count_nested": both(
            set_values("event_count_7d", {5: 6}),
            set_values("event_decay_ratio_30d", {5: 180 / 35}),
        ),
        "event_day_count_nested": set_values("event_day_count_90d", {5: 1}),
        "ticket_count_nested": both(
            set_values("ticket_count_90d", {5: 2}), set_values("days_since_last_ticket", {5: 89})
        ),
        "contact_count_nested": set_values("contact_count_30d", {5: 2}),
        "population_is_active": both(
            set_values("days_since_last_order", {119: 180}),
            set_values("order_count_180d", {119: 0}),
            set_values("revenue_amount_180d", {119: Decimal(0)}),
            set_values("order_count_change_90d", {119: 0}),
            set_values("revenue_amount_change_90d", {119: Decimal(0)}),
        ),
        # one off: a customer of 30 days ago counted in the last 30
        "windows_agree_with_recency": set_values("order_count_30d", {30: 1}),
        "last_order_after_first": set_values("days_since_first_order", {100: 99}),
        # one off: a cart of 30 days ago counted in the last 30
        "last_days_agree_with_windows": set_values("days_since_last_cart", {5: 30}),
        "order_days_within_orders": set_values("order_day_count_365d", {5: 3}),
        "order_count_change_agrees": set_values("order_count_change_90d", {5: 0}),
        "revenue_amount_change_agrees": set_values("revenue_amount_change_90d", {5: Decimal(9)}),
        "largest_order_above_mean": set_values("max_order_amount_365d", {5: Decimal(9)}),
        "gap_quantiles_ordered": set_values("gap_median_days", {5: 31.0}),
        "rates_within_one": set_values("return_rate_365d", {5: 1.01}),
        "revenue_nested": set_values("revenue_amount_365d", {5: Decimal(9)}),
        "silence_not_negative": set_values("silence_p90_ratio", {5: -0.1}),
        "purchase_needs_life": set_values("purchase_probability_30d", {5: 0.96}),
        "rhythm_needs_a_gap": set_values("silence_p90_ratio", {5: None}),
        "order_amount_change_needs_both": set_values(
            "average_order_amount_change_90d", {5: Decimal(1)}
        ),
        "categories_agree": set_values("main_category", {5: None}),
        "entropy_within_categories": set_values("category_entropy_365d", {5: 0.7}),
        "events_within_windows": set_values("session_count_30d", {5: 6}),
        "event_decay_agrees": set_values("event_decay_ratio_30d", {5: 0.2}),
        "response_needs_a_contact": set_values("contact_response_rate_365d", {5: None}),
        "same_weeks_within_year": set_values("same_weeks_order_share", {5: 1.0}),
        "ratings_on_scale": both(
            set_values("rating_mean_365d", {5: 5.5}), set_values("rating_change", {5: -1.5})
        ),
        "rating_change_agrees": set_values("rating_change", {5: 0.5}),
        "low_ratings_within_reviews": set_values("low_rating_count_180d", {5: 3}),
        "late_or_missing_deliveries_within_orders": set_values("undelivered_order_count", {5: 2}),
        "population_varies": both(
            fill("days_since_last_order", 5),
            *[fill(f"order_count_{w}d", 1) for w in (30, 90, 180)],
            *[fill(f"revenue_amount_{w}d", Decimal(10)) for w in (30, 90, 180)],
            fill("order_count_change_90d", 1),
            fill("revenue_amount_change_90d", Decimal(10)),
        ),
    },
    "customer_status": {
        "lifecycle_agrees_with_orders": set_values("order_count_lifetime", {4: 1}),
        "lifecycle_agrees_with_recency": set_values("lifecycle", {5: "dormant"}),
        "recency_agrees_with_date": set_values("days_since_last_order", {5: 1}),
        "first_order_before_last": both(
            set_values("first_order_date", {6: DAY}), set_values("days_since_first_order", {6: 0})
        ),
        "nothing_after_the_snapshot": set_values("last_contact_date", {5: TOMORROW}),
        "orders_within_lifetime": set_values("order_count_365d", {5: 3}),
        "contacts_nested": set_values("contact_count_7d", {5: 3}),
        "order_windows_nested": set_values("order_count_90d", {5: 2}),
        # one off: an order of 30 days ago counted in the last 30
        "windows_agree_with_recency": both(
            set_values("days_since_last_order", {5: 30}),
            set_values("last_order_date", {5: DAY - datetime.timedelta(days=30)}),
        ),
        "tenure_agrees_with_date": set_values("days_since_first_order", {5: 299}),
        "recent_categories_are_categories": both(
            set_values("categories_7d", {5: "tea"}), set_values("categories_30d", {5: None})
        ),
    },
    "churn_labels": {
        "label_agrees_with_orders": both(
            set_values("is_churned_30d", {1: 1}),
            set_values("revenue_amount_next_30d", {1: Decimal(0)}),
        ),
        "churned_earns_nothing": set_values("revenue_amount_next_30d", {0: Decimal(1)}),
        "label_is_binary": both(
            set_values("is_churned", {1: 2}),
            *[
                set_values(f"revenue_amount_{name}", {1: Decimal(0)})
                for name in ("horizon", "next_90d")
            ],
        ),
        "order_count_nested": set_values("order_count_next_30d", {1: 2}),
        "windows_have_matured": set_values("is_churned_60d", {0: None}),
        "horizon_agrees_with_its_window": set_values("revenue_amount_next_90d", {1: Decimal(4)}),
        "margin_of_windows_known": set_values("margin_amount_next_30d", {1: None}),
        "next_order_within_horizon": set_values("days_to_next_order", {1: 0}),
        # one off: an order of day 31 counted in the first 30
        "next_order_agrees_with_orders": set_values("days_to_next_order", {1: 31}),
        "personal_label_is_binary": set_values("is_churned_personal", {0: 2}),
        "personal_label_has_matured": set_values("is_churned_personal", {0: None}),
        "horizon_has_passed": fill("snapshot_date", DAY - datetime.timedelta(days=89)),
        "personal_horizon_within_bounds": set_values("personal_horizon_days", {0: 29}),
        "churn_rate_plausible": both(
            fill("is_churned", 1),
            fill("order_count_horizon", 0),
            fill("revenue_amount_horizon", Decimal(0)),
            fill("days_to_next_order", None),
            *[fill(f"is_churned_{n}d", 1) for n in (30, 60, 90)],
            *[fill(f"order_count_next_{n}d", 0) for n in (30, 60, 90)],
            *[fill(f"revenue_amount_next_{n}d", Decimal(0)) for n in (30, 60, 90)],
        ),
    },
    "churn_returns": {
        "silence_longer_than_horizon": both(
            set_values("days_silent", {5: HORIZON}),
            set_values("silent_since_date", {5: DAY - datetime.timedelta(days=HORIZON)}),
            set_values("first_matured_date", {5: DAY}),
        ),
        "silence_agrees_with_dates": set_values("days_silent", {5: 101}),
        "first_label_agrees_with_silence": set_values("first_matured_date", {5: DAY}),
        "nothing_after_the_snapshot": both(
            set_values("returned_date", {5: TOMORROW}), set_values("days_silent", {5: 101})
        ),
        "withdrawn_earns_nothing": set_values("is_withdrawn", {5: True}),
    },
    "churn_scores": {
        "rank_is_total_order": swap(3, 4, "churn_rank"),
        "deciles_balanced": set_values("churn_decile", {12: 1}),
        "deciles_follow_ranks": swap(11, 12, "churn_decile"),
        "bands_follow_probabilities": set_values("risk_band", {5: "low"}),
        "margin_at_risk_agrees": set_values("margin_at_risk_amount", {5: Decimal(1)}),
        "rescore_agrees_with_model": set_values("is_rescore", {5: True}),
        "one_model": set_values("model_version", {5: "another"}),
        "mean_probability_plausible": both(
            *[
                set_values(
                    "churn_probability", {i: round((ROWS - i) / 1e5, 6) for i in range(ROWS)}
                ),
                set_values(
                    "margin_at_risk_amount", {i: Decimal(ROWS - i) / 1000 for i in range(ROWS)}
                ),
            ]
        ),
        "scores_vary": lambda batch: both(
            fill("churn_probability", 0.5),
            fill("margin_at_risk_amount", Decimal(50)),
            set_values("customer_key", dict(enumerate(sorted(map(customer, range(ROWS)))))),
        )(batch),
    },
    "customer_segments": {
        "rfm_segment_known": lambda batch: set_values(
            "rfm_segment", {i: "Fans" for i in range(ROWS) if i % 4}
        )(batch),
        "rfm_code_agrees_with_scores": set_values("recency_score", {5: 4}),
        "rfm_code_names_one_segment": set_values("rfm_segment", {5: "Loyal"}),
        "prospects_have_no_rfm": set_values("lifecycle", {4: "dormant"}),
        "cluster_has_one_name": set_values("cluster_name", {5: "big and small"}),
    },
    "customer_value": {
        "shorter_window_within_longer": set_values("expected_order_count_90d", {5: 0.2}),
        "main_category_within_purchases": set_values("main_category_probability_7d", {5: 0.02}),
        "main_category_needs_one": set_values("main_category", {5: None}),
        "prospects_have_no_value": set_values("expected_margin_amount_365d", {5: None}),
        "intervals_in_order": set_values("revenue_amount_low_90d", {5: Decimal(451)}),
        "rescore_agrees_with_model": set_values("is_rescore", {5: True}),
        "one_model": set_values("model_version", {5: "another"}),
        "purchases_vary": both(
            fill("purchase_probability_7d", 0.6),
            fill("purchase_probability_30d", 0.6),
        ),
        "margin_below_revenue": set_values(
            "expected_margin_amount_90d", {i: Decimal(200) for i in range(120) if i % 4}
        ),
    },
    "at_risk_list": {
        "priority_is_dense": set_values("priority", {119: 121}),
        "priority_follows_margin_at_risk": swap(3, 4, "priority"),
        "margin_at_risk_agrees": set_values("churn_probability", {5: 0.0}),
        "new_on_first_day": set_values("is_new", {5: True}),
        "last_contact_not_after_the_snapshot": set_values("last_contact_date", {5: TOMORROW}),
    },
    "campaign_assignments": {
        "propensity_positive": both(
            *[set_values("propensity", {i: 0.0}) for i in range(0, ROWS, 2)]
        ),
        "draws_below_one": set_values("u_layer", {5: 1.0}),
        "config_is_sha256": fill("config_sha256", "ab"),
        "assigned_from_the_past": set_values("snapshot_date", {5: TOMORROW}),
        "window_after_assignment": set_values("window_end_date", {5: DAY}),
        "one_control_per_campaign": set_values("is_control", {5: True}),
        "one_configuration_per_campaign": set_values("config_sha256", {5: "cd" * 32}),
        "one_propensity_per_arm": both(
            set_values("propensity", dict.fromkeys(range(0, ROWS, 2), 0.3)),
            set_values("propensity", {1: 0.0001}),
        ),
        "propensities_sum_within_one": both(
            *[set_values("propensity", {i: 0.61}) for i in range(0, ROWS, 2)]
        ),
    },
    "campaign_cohorts": {
        "excluded_has_reason": set_values("exclusion_reason", {1: None}),
        "excluded_has_no_arm": both(
            set_values("arm", {1: "coupon"}), set_values("propensity", {1: 0.5})
        ),
        "arm_has_propensity": set_values("propensity", {0: None}),
        "propensity_positive": set_values("propensity", {0: 0.0}),
    },
    "campaign_deliveries": {
        "sent_by_the_snapshot": set_values("sent_date", {5: TOMORROW}),
        "arm_comes_with_assignment": set_values("is_control", {5: None}),
        "controls_get_nothing": set_values("is_control", {5: True}),
        "everybody_gets_their_arm": both(
            set_values("sent_arm", {5: "reminder"}), set_values("is_other_arm", {5: True})
        ),
        "other_arm_is_told": set_values("sent_arm", {5: "reminder"}),
        "only_the_assigned_get_it": both(
            *[set_values(name, {5: None}) for name in ("arm", "is_control", "assigned_date")]
        ),
        "sent_after_assignment": set_values("assigned_date", {5: DAY}),
    },
    "campaign_outcomes": {
        "window_after_assignment": set_values("assigned_date", {5: DAY}),
        "told_when_due": set_values("window_end_date", {5: TOMORROW}),
        "retained_agrees_with_orders": set_values("retained", {0: 0}),
        "nothing_without_an_order": set_values("margin_amount", {1: Decimal(1)}),
        "delivered_was_sent": both(
            set_values("is_sent", {5: False}), set_values("is_delivered", {5: True})
        ),
        "profit_adds_up": set_values("profit_amount", {5: Decimal(1)}),
    },
    "campaign_results": {
        "effect_within_interval": set_values("effect_low", {5: 0.11}),
        "arm_is_not_control": fill("control_arm", "coupon"),
        "look_by_the_snapshot": set_values("look_date", {5: TOMORROW}),
        "measured_were_assigned": set_values("customer_count_arm", {5: 501}),
        "mismatch_has_status": set_values("srm_p_delivered", {5: 0.0009}),
        "nothing_to_read_unless_valid": set_values("status", {5: "invalid"}),
        "open_windows_decide_nothing": set_values("status", {5: "window_open"}),
        "guardrails_have_a_margin": set_values("non_inferiority_margin", {5: 1.0}),
    },
    "uplift_scores": {
        "rank_is_total_order": swap(3, 4, "uplift_rank"),
        "learned_from_the_past": set_values("learned_until_date", {5: TOMORROW}),
        "one_model_per_offer": set_values("model_version", {5: "another"}),
        "effects_vary": lambda batch: both(
            fill("expected_effect", 0.1),
            set_values("customer_key", dict(enumerate(sorted(map(customer, range(ROWS)))))),
        )(batch),
    },
    "offer_policy": {
        "propensities_sum_to_one": set_values("propensity", {4: 0.31}),
        "floor_is_kept": set_values("propensity", {4: 0.04, 5: 0.96}),
        "posterior_is_whole": set_values("posterior_sd", {5: None}),
        "worth_no_more_than_counted": set_values("effective_count", {5: 121.0}),
        "everybody_has_a_policy": set_values("segment", {4: "Lost", 5: "Lost"}),
    },
}


def tiny_cluster() -> Mutation:
    """600 clustered customers, 5 of them in a cluster of their own."""

    def mutate(batch: pa.Table) -> pa.Table:
        rows = batch.filter(pa.compute.is_valid(batch["cluster_id"]))
        many = pa.concat_tables([rows] * 7).slice(0, 600)
        return many.set_column(
            1, "customer_key", pa.array([customer(i) for i in range(600)])
        ).set_column(
            many.column_names.index("cluster_id"),
            "cluster_id",
            pa.array([2] * 5 + many["cluster_id"].to_pylist()[5:], type=pa.int64()),
        )

    return mutate


BAD["customer_segments"]["clusters_not_tiny"] = both(
    tiny_cluster(),
    lambda batch: batch.set_column(
        batch.column_names.index("cluster_name"),
        "cluster_name",
        pa.array([("big", "small", "odd")[i] for i in batch["cluster_id"].to_pylist()]),
    ),
)

BUSINESS_CASES = [
    pytest.param(name, expectation, id=f"{name}-{expectation.name}")
    for name in ALL
    for expectation in suite_for(declared_tables()[name]).expectations
    if expectation.name not in STRUCTURAL
]


@pytest.mark.parametrize(("name", "expectation"), BUSINESS_CASES)
def test_rule_trips_on_its_bad_data(name: str, expectation: Expectation) -> None:
    table = declared_tables()[name]
    result = judge(BAD[name][expectation.name](good(name)), table)
    assert failed_names(result) == {expectation.name}, result
    assert result.passed == (expectation.severity == "warning")
    assert result.evaluated == result.expected


def test_no_mutation_is_left_over() -> None:
    rules = {
        (name, expectation.name)
        for name in ALL
        for expectation in suite_for(declared_tables()[name]).expectations
        if expectation.name not in STRUCTURAL
    }
    assert {(name, rule) for name, rules_ in BAD.items() for rule in rules_} == rules


def test_types_of_arrow_match_what_tables_declare() -> None:
    assert set(ARROW) == {c.type for t in declared_tables().values() for c in t.columns}
