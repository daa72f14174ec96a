"""Do the numbers mean what they say? A/A runs, power, coverage, through assignment and analysis.

Rules 1, 2, 16 and 17: every metric type rejects as often as it says under re-randomisation by the
production hash; methods that are wrong are seen to be wrong; effects injected at the stated
minimum are found as often as promised; intervals cover. The short runs are for every day, the
long ones (2,000 runs) are slow.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from small_shop import keys

from ml.campaigns.assignment import uniforms
from ml.campaigns.results import AnalysisPlan, MetricPlan, read_out
from ml.experiments.two_sample import Sample, welch

DAY = date(2025, 5, 1)
WEIGHTS = {"control": 0.5, "coupon": 0.5}
N = 2_000
METRICS = (
    MetricPlan("revenue", "secondary"),
    MetricPlan("bought", "secondary", is_proportion=True),
    MetricPlan("revenue_capped", "secondary", value="revenue", winsorise=0.99),
    MetricPlan("revenue_cuped", "secondary", value="revenue", covariate="before"),
    MetricPlan("order_rate", "secondary", value="orders", per="sessions"),
    MetricPlan("order_rate_cuped", "secondary", value="orders", per="sessions", covariate="before"),
)
PLAN = AnalysisPlan("aa", "control", WEIGHTS, METRICS, DAY, DAY, 28, stratum=None)
STRATIFIED = replace(
    PLAN,
    stratum="tier",
    metrics=(MetricPlan("revenue_stratified", "secondary", value="revenue", covariate="before"),),
)
WRONG = ["winsor_per_arm", "session_iid"]
RIGHT = [metric.name for metric in (*PLAN.metrics, *STRATIFIED.metrics)]


def population(seed: int = 20250501) -> pd.DataFrame:
    """Zero-inflated log-normal revenue, over-dispersed sessions; no effect of anything.

    At a log-sd of 1.2 one customer holds a quarter of the sum of squares. At 1.5 it is a third,
    and the p-values of a t test, though rejecting as often as they say, are not uniform any more.
    """
    rng = np.random.default_rng(seed)
    before = rng.lognormal(3, 1, N) * (rng.random(N) < 0.5)
    revenue = rng.lognormal(3, 1.2, N) * (rng.random(N) < 0.3) + 0.3 * before
    # Sessions differ a lot between customers, and so does what one session yields.
    sessions = rng.poisson(rng.gamma(1, 5, N)) + 1.0
    return pd.DataFrame(
        {
            "customer_key": sorted(keys(N)),
            "before": before,
            "revenue": revenue,
            "bought": (revenue > 20).astype(float),
            "sessions": sessions,
            "orders": rng.binomial(sessions.astype(int), rng.beta(1, 4, N)).astype(float),
            "tier": np.select([before > 40, before > 0], ["gold", "silver"], "none"),
        }
    )


def draw(run: str, units: pd.DataFrame) -> pd.DataFrame:
    """A ledger as `assign` writes it, by the production hash."""
    arm = np.where(uniforms(run, units["customer_key"]) < 0.5, "control", "coupon")
    return pd.DataFrame(
        {"customer_key": units["customer_key"], "arm": arm, "tier": units["tier"]}
    ).assign(assigned_date=DAY)


def p_values(runs: int) -> dict[str, np.ndarray]:
    units = population()
    found: dict[str, list[float]] = {name: [] for name in [*RIGHT, *WRONG]}
    values = {name: units[name].to_numpy() for name in ("revenue", "orders", "sessions")}
    for run in range(runs):
        ledger = draw(f"aa_{run}", units)
        for plan in (PLAN, STRATIFIED):
            read = read_out(plan, ledger, units, DAY + timedelta(days=28))
            for name, p_value in zip(read["metric"], read["p_value"], strict=True):
                found[name].append(p_value)
        arms = [ledger["arm"].eq(arm).to_numpy() for arm in WEIGHTS]
        own = [values["revenue"][arm] for arm in arms]
        capped = [Sample.from_values(np.minimum(v, np.quantile(v, 0.99))) for v in own]
        found["winsor_per_arm"].append(welch(*capped).p_value or 0.0)
        counts = [(values["orders"][arm].sum(), values["sessions"][arm].sum()) for arm in arms]
        iid = welch(*(Sample.from_count(int(a), int(b)) for a, b in counts))
        found["session_iid"].append(iid.p_value or 0.0)
    return {name: np.array(p) for name, p in found.items()}


def accept(runs: int) -> tuple[float, float]:
    low, high = stats.binom.interval(0.999, runs, 0.05)
    return low, high


@pytest.fixture(scope="module")
def short() -> dict[str, np.ndarray]:
    return p_values(300)


@pytest.fixture(scope="module")
def long() -> dict[str, np.ndarray]:
    return p_values(2_000)


@pytest.mark.parametrize("metric", RIGHT)
def test_aa_rejects_as_often_as_it_says(short: dict[str, np.ndarray], metric: str) -> None:
    low, high = accept(300)
    assert low <= (short[metric] < 0.05).sum() <= high


@pytest.mark.parametrize("method", WRONG)
def test_aa_sees_a_method_that_is_wrong(short: dict[str, np.ndarray], method: str) -> None:
    assert (short[method] < 0.05).sum() > accept(300)[1]


@pytest.mark.slow
@pytest.mark.parametrize("metric", RIGHT)
def test_2000_aa_runs_reject_between_69_and_133_times(
    long: dict[str, np.ndarray], metric: str
) -> None:
    assert accept(2_000) == (69, 133)
    assert 69 <= (long[metric] < 0.05).sum() <= 133
    blocked = np.isnan(long[metric])  # by the sample ratio: once in a thousand runs
    assert blocked.sum() <= stats.binom.ppf(0.9995, 2_000, 0.001)
    if metric != "bought":  # a proportion has few values, and so has its p
        assert stats.kstest(long[metric][~blocked], "uniform").pvalue > 0.001


@pytest.mark.slow
@pytest.mark.parametrize("method", WRONG)
def test_2000_aa_runs_see_a_method_that_is_wrong(long: dict[str, np.ndarray], method: str) -> None:
    assert (long[method] < 0.05).sum() > 133


def injected(runs: int) -> tuple[int, int]:
    """How often an effect of the stated minimum is found, and how often the interval covers it."""
    rng = np.random.default_rng(7)
    n = 800
    units = pd.DataFrame({"customer_key": sorted(keys(n)), "tier": ""})
    se = 10 * (2 / (n / 2)) ** 0.5
    least = (1.959964 + 0.841621) * se
    plan = replace(
        PLAN, metrics=(MetricPlan("spend", "goal", covariate="known", minimum_effect=least),)
    )
    found = covered = 0
    for run in range(runs):
        ledger = draw(f"power_{run}", units)
        known = rng.normal(0, 10, n)
        # Half of the variance is known before; it is taken out, so the noise is the planned one.
        spend = 50 + known + rng.normal(0, 10, n) + least * ledger["arm"].eq("coupon")
        read = read_out(plan, ledger, units.assign(spend=spend, known=known), DAY + timedelta(28))
        row = read.iloc[0]
        found += row["p_value"] < 0.05
        covered += row["effect_low"] <= least <= row["effect_high"]
    return found, covered


def test_the_stated_minimum_is_found_and_covered() -> None:
    found, covered = injected(300)
    for count, rate in ((found, 0.8), (covered, 0.95)):
        low, high = stats.binom.interval(0.999, 300, rate)
        assert low <= count <= high


@pytest.mark.slow
def test_2000_injected_effects_are_found_in_80_percent_and_covered_in_95() -> None:
    found, covered = injected(2_000)
    assert 0.77 <= found / 2_000 <= 0.83
    assert 0.934 <= covered / 2_000 <= 0.966
