"""A good batch for every declared table: what each mutation of the tests starts from."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from expectations.schema import Column, Table
from orchestration.defs.sources.assets import raw_table
from orchestration.defs.sources.contract import load_contract
from orchestration.tables import all_tables

DAY = datetime.date(2024, 3, 1)
NOON = datetime.datetime(2024, 3, 1, 12, tzinfo=datetime.UTC)
ROWS = 120  # beyond 100, from which on rules on rates apply
HORIZON, WINDOW = 90, 180

ARROW = {
    "string": pa.string(),
    "integer": pa.int64(),
    "decimal": pa.decimal128(18, 4),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


@functools.cache
def declared_tables() -> dict[str, Table]:
    """Every table that is audited: raw, mart and outputs, as orchestration declares them."""
    raw = {f"raw_{table.name}": raw_table(table) for table in load_contract().tables}
    return {**raw, **all_tables()}


@functools.cache
def good(name: str) -> pa.Table:
    """A batch of 120 rows that passes the suite of its table without a warning."""
    table = declared_tables()[name]
    special = GOOD.get(name, {})
    unknown = set(special) - set(table.column_names)
    assert not unknown, f"good values for columns that {name} lacks: {unknown}"
    arrays = []
    for column in table.columns:
        value = special.get(column.name, _plain(column, table))
        values = [value(i) for i in range(ROWS)] if callable(value) else [value] * ROWS
        arrays.append(pa.array(values, type=ARROW[column.type]))
    return pa.table(arrays, names=list(table.column_names))


def customer(i: int) -> str:
    return f"{i * 2654435761 % 2**64:032x}"


def _plain(column: Column, table: Table) -> Any:
    """A legal value that no business rule is about; keys count up."""
    if column.name == "customer_key":
        return customer
    if column.name in table.primary_key and column.name != table.partition_by:
        if column.type == "timestamp":
            return lambda i: NOON + datetime.timedelta(seconds=i)
        if column.type == "integer":
            return lambda i: i + 1
        if not column.allowed and column.type == "string":
            return lambda i: f"{column.name} {i:04d}"
    if column.allowed is not None:
        return column.allowed[0]
    low = 0 if column.minimum is None else column.minimum
    return {
        "string": "plain",
        "integer": int(low),  # type: ignore[arg-type]
        "decimal": Decimal(str(low)),
        "double": float(low),  # type: ignore[arg-type]
        "boolean": False,
        "date": DAY,
        "timestamp": NOON,
    }[column.type]


def _days_ago(days: int) -> datetime.date:
    return DAY - datetime.timedelta(days=days)


def _recency(i: int) -> int:
    return i  # 0 to 119 days: on both sides of the windows of 30 and 90 days


def _orders(window: int) -> Callable[[int], int]:
    # one order at `recency`, one 200 days ago
    return lambda i: int(_recency(i) < window) + int(window > 200)


def _probability(i: int) -> float:
    return round(0.99 - i / 125, 6)


def _scale(low: float, high: float) -> Callable[[int], float]:
    return lambda i: low + (high - low) * i / ROWS


def _pick(values: Sequence[Any]) -> Callable[[int], Any]:
    return lambda i: values[i % len(values)]


def _segment(i: int) -> int:
    return (0, 1)[i % 2]


def _unless_prospect(value: Any) -> Callable[[int], Any]:
    return lambda i: None if i % 4 == 0 else value(i) if callable(value) else value


_SCORES: dict[str, Any] = {
    "churn_probability": _probability,
    "churn_rank": lambda i: i + 1,
    "churn_decile": lambda i: i * 10 // ROWS + 1,
    "risk_band": lambda i: (
        "high" if _probability(i) > 2 / 3 else "medium" if _probability(i) > 1 / 3 else "low"
    ),
    "expected_days_to_order": 45.5,
    "expected_margin_amount": Decimal(100),
    "margin_at_risk_amount": lambda i: Decimal(str(round(100 * _probability(i), 4))),
    "model_last_matured_date": _days_ago(1),
}

GOOD: dict[str, dict[str, Any]] = {
    "raw_consents": {"expires_at": None},
    "raw_deliveries": {"opened_at": None, "clicked_at": None},
    "deliveries": {"opened_at": None, "clicked_at": None},
    "raw_order_items": {"quantity": 2, "cancelled_quantity": 1},
    "raw_products": {"list_price": Decimal(10), "unit_cost": Decimal(4)},
    "orders": {
        "gross_amount": Decimal(10),
        "cancelled_amount": Decimal(2),
        "discount_amount": Decimal(1),
        "revenue_amount": Decimal(7),
        "margin_amount": Decimal(3),
        "is_margin_known": True,
        "item_count": 4,
    },
    "order_lines": {
        "quantity": 2,
        "cancelled_quantity": 1,
        "gross_amount": Decimal(10),
        "net_amount": Decimal(5),
        "net_margin_amount": Decimal(2),
        "is_margin_known": True,
    },
    "customer_features": {
        "days_since_last_order": _recency,
        "days_since_first_order": lambda i: 200 + i // 60,
        **{f"order_count_{w}d": _orders(w) for w in (30, 90, 180, 365)},
        "order_count_lifetime": lambda i: _orders(365)(i) + 1,
        "order_day_count_365d": 1,
        **{
            f"revenue_amount_{w}d": (lambda i, w=w: Decimal(10) * _orders(w)(i))
            for w in (30, 90, 180, 365)
        },
        "order_count_change_90d": lambda i: 2 * _orders(90)(i) - _orders(180)(i),
        "revenue_amount_change_90d": lambda i: Decimal(10) * (2 * _orders(90)(i) - _orders(180)(i)),
        "average_order_amount_365d": Decimal(10),
        "max_order_amount_365d": Decimal(10),
        "gap_median_days": 20.0,
        "gap_p90_days": 30.0,
        "silence_ratio": _scale(0, 3),
        "silence_p90_ratio": _scale(0, 2),
        "alive_probability": _scale(1, 0),
        "purchase_probability_30d": _scale(0.5, 0),
        "average_order_amount_change_90d": None,  # nobody has an order in both windows
        "return_rate_365d": _scale(0, 1),
        "discount_rate_365d": _scale(0, 1),
        "days_since_last_return": None,
        "category_count_365d": 2,
        "main_category_share_365d": 0.8,
        "category_entropy_365d": 0.5,
        "order_count_same_weeks_last_year": 1,
        "same_weeks_order_share": lambda i: 1 / _orders(365)(i),
        "has_last_year": True,
        "event_count_7d": 1,
        "event_count_30d": 5,
        "event_count_90d": 9,
        "event_day_count_30d": 2,
        "event_day_count_90d": 4,
        "view_count_30d": 3,
        "cart_count_30d": 1,
        "days_since_last_cart": _pick((0, 29)),
        "event_decay_ratio_30d": 30 / 35,
        "session_count_30d": 2,
        "ticket_count_365d": 1,
        "days_since_last_ticket": 90,
        "review_count_365d": 2,
        "days_since_last_review": 364,
        "rating_mean_365d": 4.5,
        "last_rating": 4,
        "rating_change": -0.5,
        "low_rating_count_180d": 1,
        "days_since_last_email_open": _pick((None, 90)),
        "contact_count_90d": 1,
        "contact_count_365d": 1,
    },
    "customer_status": {
        "lifecycle": _pick(("prospect", "active", "dormant", "active")),
        "order_count_lifetime": _pick((0, 2, 2, 2)),
        "order_count_365d": _pick((0, 1, 1, 1)),
        "days_since_last_order": _pick((None, 0, 179 + 1, 179)),
        "last_order_date": _pick((None, DAY, _days_ago(180), _days_ago(179))),
        "first_order_date": _pick((None, *[_days_ago(300)] * 3)),
        "last_contact_date": _pick((None, _days_ago(3))),
        "contact_count_7d": 1,
        "contact_count_30d": 2,
        "days_since_first_order": _pick((None, *[300] * 3)),
        "order_count_30d": _pick((0, 1, 0, 0)),
        "order_count_90d": _pick((0, 1, 0, 0)),
    },
    "churn_labels": {
        "snapshot_date": _days_ago(HORIZON),
        "horizon_days": HORIZON,
        "is_churned": _pick((1, 0)),
        "order_count_horizon": _pick((0, 2)),
        "revenue_amount_horizon": _pick((Decimal(0), Decimal(5))),
        "personal_horizon_days": _pick((60, 60, 120)),
        "is_churned_personal": _pick((1, 0, None)),
        # one order on day 10, another on day 70
        "days_to_next_order": _pick((None, 10)),
        **{f"is_churned_{n}d": _pick((1, 0)) for n in (30, 60, 90)},
        **{f"order_count_next_{n}d": _pick((0, 1 + (n > 70))) for n in (30, 60, 90)},
        **{
            f"revenue_amount_next_{n}d": _pick((Decimal(0), Decimal(5 if n > 70 else 3)))
            for n in (30, 60, 90)
        },
    },
    "churn_returns": {
        "silent_since_date": _days_ago(100),
        "first_matured_date": _days_ago(100 - HORIZON),
        "days_silent": 100,
        "returned_date": DAY,
        "revenue_amount": Decimal(5),
    },
    "churn_scores": _SCORES,
    "customer_segments": {
        "lifecycle": _pick(("prospect", "active", "dormant", "active")),
        "recency_score": _unless_prospect(5),
        "frequency_score": _unless_prospect(5),
        "monetary_score": _unless_prospect(_pick((5, 4))),
        "rfm_code": _unless_prospect(_pick((555, 554))),
        "rfm_segment": _unless_prospect("Champions"),
        "rfm_version": _unless_prospect("v1"),
        "cluster_id": _unless_prospect(_pick((0, 1))),
        "cluster_name": _unless_prospect(_pick(("big", "small"))),
        "cluster_model_version": _unless_prospect("1"),
    },
    "customer_value": {
        "lifecycle": _pick(("prospect", "active", "dormant", "active")),
        "purchase_probability_7d": _scale(0, 0.3),
        "purchase_probability_30d": _scale(0, 0.6),
        "main_category": _unless_prospect("tea"),
        "main_category_probability_7d": _unless_prospect(_scale(0, 0.2)),
        "main_category_probability_30d": _unless_prospect(_scale(0, 0.5)),
        **{
            f"{stem}_{days}d": _unless_prospect(value * days)
            for days in (30, 90, 365)
            for stem, value in (
                ("expected_order_count", 0.01),
                ("order_count_low", 0.0),
                ("order_count_high", 0.03),
                ("expected_revenue_amount", Decimal(2)),
                ("revenue_amount_low", Decimal(0)),
                ("revenue_amount_high", Decimal(5)),
                ("expected_margin_amount", Decimal(1)),
                ("margin_amount_low", Decimal(0)),
                ("margin_amount_high", Decimal(2)),
            )
        },
        "model_last_matured_date": _days_ago(1),
    },
    "at_risk_list": {
        **{k: v for k, v in _SCORES.items() if "amount" in k or "probability" in k},
        "priority": lambda i: i + 1,
        "days_on_list": _pick((1, 2)),
        "is_new": _pick((True, False)),
        "last_contact_date": _days_ago(20),
    },
    "campaign_assignments": {
        "campaign_id": "spring",
        "arm": _pick(("control", "coupon")),
        "u_arm": _pick((0.1, 0.9)),
        "weights_json": '{"control": 0.4, "coupon": 0.6}',
        "propensity": _pick((0.4, 0.6)),
        "config_sha256": "ab" * 32,
        "is_control": _pick((True, False)),
        "window_end_date": DAY + datetime.timedelta(days=28),
    },
    "campaign_cohorts": {
        "campaign_id": "spring",
        "is_eligible": _pick((True, False)),
        "exclusion_reason": _pick((None, "no consent")),
        "arm": _pick(("coupon", None)),
        "propensity": _pick((0.5, None)),
    },
    "campaign_deliveries": {
        "campaign_id": "spring",
        "sent_at": NOON,
        "assigned_date": _days_ago(1),
        "arm": "coupon",
        "sent_arm": "coupon",
        "is_other_arm": False,
    },
    "campaign_outcomes": {
        "campaign_id": "spring",
        "assigned_date": _days_ago(28),
        "settled_date": DAY + datetime.timedelta(days=30),
        "is_sent": True,
        "retained": _pick((1, 0)),
        "order_count": _pick((2, 0)),
        "revenue_amount": _pick((Decimal(20), Decimal(0))),
        "discount_amount": _pick((Decimal(2), Decimal(0))),
        "margin_amount": _pick((Decimal(8), Decimal(0))),
        "net_margin_amount": _pick((Decimal(7), Decimal(0))),
        "cost_amount": _pick((Decimal("2.05"), Decimal("0.05"))),
        "profit_amount": _pick((Decimal("6.95"), Decimal("-0.05"))),
    },
    "campaign_results": {
        "metric": lambda i: f"metric {i:04d}",
        "campaign_id": "spring",
        "arm": "coupon",
        "control_arm": "control",
        "role": "goal",
        "assigned_count_arm": 500,
        "assigned_count_control": 500,
        "customer_count_arm": 499,
        "customer_count_control": 498,
        "effect": 0.1,
        "effect_low": 0.05,
        "effect_high": 0.15,
        "non_inferiority_margin": None,
        **{
            f"srm_p_{stage}": 0.5
            for stage in ("eligible", "assigned", "sent", "delivered", "measured")
        },
    },
    "uplift_scores": {
        "campaign_id": "spring",
        "arm": "coupon",
        "metric": "retained",
        "expected_effect": lambda i: round(0.2 - i / 1000, 6),
        "uplift_rank": lambda i: i + 1,
        "learner": "t_learner",
        "model_version": "1",
    },
    "offer_policy": {
        "campaign_id": lambda i: f"campaign {i // 4:02d}",
        "segment": lambda i: ("all", "Champions")[i // 2 % 2],
        "arm": _pick(("control", "coupon")),
        "customer_count": 120,
        "effective_count": 100.0,
        "posterior_mean": 0.2,
        "posterior_sd": 0.04,
        "best_probability": _pick((0.3, 0.7)),
        "floor": 0.05,
        "propensity": _pick((0.32, 0.68)),
    },
}
