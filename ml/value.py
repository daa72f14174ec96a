"""What a customer is worth over the horizon, if kept.

Belongs here: the expected margin of a customer who does not churn. Does not belong here: the
probability that the customer does (ml.scoring); their product is the margin at risk. Nor what a
customer is expected to bring, churned or not (ml.customer_value): decision 16 says why that one is
not divided by the other.
"""

from __future__ import annotations

from math import fsum

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.extensions import ExtensionArray

WINDOW_DAYS = 365
# Prior strengths. A customer's own margin per order counts as much as the shop's after 3 orders,
# and the own order rate as much as the shop's after the time in which the typical customer orders
# once.
MARGIN_PRIOR_ORDERS = 3.0
RATE_PRIOR_ORDERS = 1.0

_UNIT = 10_000  # of money, in four places
_MILLION = 1_000_000

_REQUIRED = (
    "customer_key",
    "order_count_365d",
    "days_since_first_order",
    "revenue_amount_365d",
    "margin_amount_365d",
)


def expected_margin(
    customers: pd.DataFrame, horizon_days: int, margin_rate_default: float
) -> pd.DataFrame:
    """Return customer_key, expected_margin_amount (DECIMAL(18,4)), is_margin_assumed.

    The margin of one customer over the horizon, given at least one order in it:

        rate    = (repeats + a) / (exposure + a / r0)      orders a day; a = 1, r0 the shop's rate
        orders  = L / (1 - exp(-L)),  L = rate * horizon   mean of a Poisson, given at least one
        margin  = (margin_365d + k * m0) / (orders_365d + k)  an order; k = 3, m0 the shop's mean
        expected_margin_amount = max(orders * margin, 0)

    exposure is the part of the last 365 days since the first order, and that first order, which
    opens the exposure, is no repeat: a customer of three days with one order has shown no rate at
    all rather than one of 120 orders a year. Both shrinkages are the posterior mean under a gamma
    prior that weighs a (k) orders.

    Where the margin is unknown (null, or `is_margin_known` false if that column is present) it is
    revenue_amount_365d times `margin_rate_default`, and is_margin_assumed is true.

    customers: one row per customer with `customer_key`, `order_count_365d`,
    `days_since_first_order`, `revenue_amount_365d`, `margin_amount_365d`; amounts as float or
    Decimal. The result keeps its order; population means do not depend on it.
    """
    missing = [name for name in _REQUIRED if name not in customers.columns]
    if missing:
        raise ValueError(f"expected_margin needs {', '.join(missing)}")
    if horizon_days <= 0:
        raise ValueError(f"the horizon must be positive, got {horizon_days} days")
    orders = _floats(customers["order_count_365d"])
    tenure = _floats(customers["days_since_first_order"])
    revenue = _floats(customers["revenue_amount_365d"])
    margin = _floats(customers["margin_amount_365d"])
    for name, values in (("order_count_365d", orders), ("days_since_first_order", tenure)):
        if np.isnan(values).any() or (values < 0).any():
            raise ValueError(f"{name} must be known and not negative")
    assumed = np.isnan(margin)
    if "is_margin_known" in customers.columns:
        assumed |= ~customers["is_margin_known"].fillna(False).to_numpy(dtype=bool)
    margin = np.where(assumed, revenue * margin_rate_default, margin)

    is_new = tenure < WINDOW_DAYS
    exposure = np.where(is_new, tenure + 1, WINDOW_DAYS)
    repeats = np.where(is_new, np.maximum(orders - 1, 0), orders)
    # fsum is exact, so the order of rows cannot show; at least one order a year keeps r0 positive
    # at a shop where nobody has come back yet
    shop_rate = max(fsum(repeats), 1.0) / max(fsum(exposure), float(WINDOW_DAYS))
    shop_margin = fsum(margin) / max(fsum(orders), 1.0)

    rate = (repeats + RATE_PRIOR_ORDERS) / (exposure + RATE_PRIOR_ORDERS / shop_rate)
    intensity = rate * horizon_days
    orders_if_kept = intensity / -np.expm1(-intensity)
    margin_per_order = (margin + MARGIN_PRIOR_ORDERS * shop_margin) / (orders + MARGIN_PRIOR_ORDERS)
    amount = np.maximum(orders_if_kept * margin_per_order, 0.0)
    return pd.DataFrame(
        {
            "customer_key": customers["customer_key"].to_numpy(),
            "expected_margin_amount": _money(np.rint(amount * _UNIT).astype(np.int64)),
            "is_margin_assumed": assumed,
        },
        index=customers.index,
    )


def margin_at_risk(churn_probability: pd.Series, expected_margin_amount: pd.Series) -> pd.Series:
    """Return probability times expected margin, money as in `expected_margin`, in the same order.

    In whole numbers and not in doubles, so that the product of the published numbers (six digits
    and four) is the published product to the last digit, half to even.
    """
    millionths = np.rint(churn_probability.to_numpy(dtype="float64") * _MILLION).astype(np.int64)
    # In two parts, since 64 bits do not hold a million times what DECIMAL(18,4) does.
    high, low = np.divmod(_units(expected_margin_amount), _MILLION)
    whole, rest = np.divmod(millionths * low, _MILLION)
    whole += millionths * high
    whole += (rest > _MILLION // 2) | ((rest == _MILLION // 2) & (whole % 2 == 1))
    return pd.Series(_money(whole), index=expected_margin_amount.index)


def _money(units: np.ndarray) -> ExtensionArray:
    """Return ten-thousandths as DECIMAL(18,4); one Decimal a customer took 8 ms for 10,000."""
    halves = np.column_stack([units, units >> 63])  # 128 bits, the lower half first
    buffers = [None, pa.py_buffer(halves.astype("<i8").tobytes())]
    found = pa.Decimal128Array.from_buffers(pa.decimal128(18, 4), len(units), buffers)
    return pd.array(found, dtype=pd.ArrowDtype(found.type))


def _units(money: pd.Series) -> np.ndarray:
    """Return DECIMAL(18,4) as ten-thousandths."""
    found = pa.array(money, type=pa.decimal128(18, 4))
    halves = np.frombuffer(found.buffers()[1], dtype="<i8").reshape(-1, 2)
    return halves[found.offset : found.offset + len(found), 0]


def _floats(column: pd.Series) -> np.ndarray:
    """Return numbers or Decimals as float64, NaN for missing."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(dtype="float64", na_value=np.nan)
    return np.array([np.nan if pd.isna(value) else float(value) for value in column], dtype=float)
