"""What reading a large campaign costs: outcomes and results of a million customers.

    python benchmarks/campaign_results.py                  1,000,000 customers, 5 metrics
    python benchmarks/campaign_results.py --customers 100000

Two arms of 45 % beside a control of 10 %, drawn by the production hash over 30 days; an order per
customer, one in ten returned, a message each, which says whose it was; dates are objects, as the
lake delivers them. Post-stratified by tier, two metrics and a ratio adjusted by a prediction, one
of them capped; the sample ratio at five stages, three looks. Another campaign of the layer stands
in the ledger, so integrity is looked at as in production. Making the data is not measured. Prints
CPU and wall seconds of each part, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from ml.campaigns.assignment import uniforms
from ml.campaigns.outcomes import unit_outcomes
from ml.campaigns.planning import look_dates
from ml.campaigns.results import AnalysisPlan, MetricPlan, read_out

DAY = date(2025, 5, 1)
LAST = DAY + timedelta(days=29)
ARMS = {"control": 0.1, "reminder": 0.45, "coupon": 0.45}
METRICS = (
    MetricPlan("profit_amount", "goal", covariate="predicted", minimum_effect=0.5, settle_days=30),
    MetricPlan("retained", "guardrail", is_proportion=True, non_inferiority_margin=0.01),
    MetricPlan("revenue_amount", "secondary", winsorise=0.999, covariate="predicted"),
    MetricPlan(
        "order_value",
        "secondary",
        value="revenue_amount",
        per="order_count",
        covariate="predicted",
        covariate_per="predicted_orders",
    ),
    MetricPlan("discount_amount", "secondary"),
)


def timed(name: str, work: Callable[[], Any]) -> Any:
    cpu, wall = time.process_time(), time.perf_counter()
    value = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{name:<24} CPU {cpu:6.2f} s   wall {wall:6.2f} s   peak {peak():5.2f} GB")
    return value


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def make(n: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(1)
    keys = [f"{i * 2_654_435_761 % 2**32:08x}{i:024x}" for i in range(n)]
    keys.sort()
    drawn = uniforms("benchmark", keys)
    arm = np.array(list(ARMS))[np.searchsorted(np.cumsum(list(ARMS.values()))[:-1], drawn, "right")]
    days = np.datetime64(DAY) + rng.integers(0, 30, n)
    ledger = pd.DataFrame(
        {
            "campaign_id": "benchmark",
            "customer_key": pd.Series(keys, dtype="str"),
            "arm": pd.Series(arm, dtype="str"),
            "assigned_date": pd.Series(days.astype(object)),
            "tier": pd.Series(rng.choice(["gold", "silver", "bronze"], n), dtype="str"),
        }
    )
    m = n
    who = rng.integers(0, n, m)
    revenue = rng.lognormal(3, 1, m)
    orders = pd.DataFrame(
        {
            "order_id": np.arange(m),
            "customer_key": ledger["customer_key"].to_numpy()[who],
            "ordered_date": pd.Series((days[who] + rng.integers(1, 40, m)).astype(object)),
            "revenue_amount": revenue,
            "discount_amount": np.where(rng.random(m) < 0.1, 2.0, 0.0),
            "margin_amount": 0.4 * revenue,
            "is_wholly_cancelled": rng.random(m) < 0.02,
        }
    )
    back = orders.iloc[::10]
    returns = pd.DataFrame(
        {
            "order_id": back["order_id"],
            "returned_date": [day + timedelta(days=9) for day in back["ordered_date"]],
            "revenue_amount": back["revenue_amount"],
            "margin_amount": back["margin_amount"],
        }
    )
    contacted = ledger[ledger["arm"] != "control"]
    deliveries = pd.DataFrame(
        {
            "campaign_id": "benchmark",
            "customer_key": contacted["customer_key"],
            "sent_date": [day + timedelta(days=1) for day in contacted["assigned_date"]],
            "cost_amount": 0.05,
            "arm": contacted["arm"],
        }
    )
    return ledger, orders, returns, deliveries, rng.gamma(2, 4, n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=1_000_000)
    n = parser.parse_args().customers
    ledger, orders, returns, deliveries, predicted = make(n)
    plan = AnalysisPlan(
        "benchmark",
        "control",
        ARMS,
        METRICS,
        DAY,
        LAST,
        28,
        looks=look_dates(DAY, LAST, 58, 3),
        planned_customers=n,
        stratum="tier",
    )
    ledger["layer"] = "default"
    ledger["window_end_date"] = [day + timedelta(days=28) for day in ledger["assigned_date"]]
    other = ledger[["customer_key", "layer", "assigned_date", "window_end_date"]].iloc[::100]
    others = pd.concat([ledger, other.assign(campaign_id="another")], ignore_index=True)
    end = LAST + timedelta(days=58)
    print(f"{n:,} customers, {len(orders):,} orders; made at a peak of {peak():.2f} GB")
    start = time.process_time()
    units = timed(
        "outcomes",
        lambda: unit_outcomes(
            ledger,
            orders,
            end,
            window_days=28,
            settle_days=30,
            contact_costs=dict.fromkeys(ARMS, 0.05),
            returns=returns,
            deliveries=deliveries,
        ),
    )
    units["predicted"], units["predicted_orders"] = predicted, predicted**0.5
    read = timed(
        "results", lambda: read_out(plan, ledger, units, end, others=others, eligible=ledger)
    )
    print(f"{'together':<24} CPU {time.process_time() - start:6.2f} s")
    print(f"{len(read)} readings: {read['status'].value_counts().to_dict()}")


if __name__ == "__main__":
    main()
