"""Do the numbers mean what they say? A/A runs, power, coverage, through assignment and analysis.

Rules 1, 2, 16 and 17: every metric type rejects as often as it says under re-randomisation by
`assign`; methods that are wrong are seen to be wrong; effects injected at the stated minimum are
found as often as promised; intervals cover. The short runs are for every day, the long ones (2,000
runs) are slow.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from small_shop import DAY, campaign, keys

from ml.campaigns.assignment import assign, empty_ledger
from ml.campaigns.results import AnalysisPlan, MetricPlan, read_out
from ml.experiments.two_sample import Sample, welch

CAMPAIGN = campaign(global_holdout=0.0)
WEIGHTS = CAMPAIGN.weights
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
    stratum="value_tier",
    metrics=(
        MetricPlan("revenue_stratified", "secondary", value="revenue", covariate="before"),
        MetricPlan(
            "order_rate_stratified",
            "secondary",
            value="orders",
            per="sessions",
            covariate="orders_before",
            covariate_per="sessions_before",
        ),
    ),
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
    rate, taste = rng.gamma(1, 5, N), rng.beta(1, 4, N)
    sessions, sessions_before = rng.poisson(rate) + 1.0, rng.poisson(rate) + 1.0
    return pd.DataFrame(
        {
            "customer_key": sorted(keys(N)),
            "before": before,
            "revenue": revenue,
            "bought": (revenue > 20).astype(float),
            "sessions": sessions,
            "orders": rng.binomial(sessions.astype(int), taste).astype(float),
            "sessions_before": sessions_before,
            "orders_before": rng.binomial(sessions_before.astype(int), taste).astype(float),
            "tier": np.select([before > 40, before > 0], ["gold", "silver"], "none"),
        }
    )


def draw(run: str, units: pd.DataFrame) -> pd.DataFrame:
    """The ledger of a campaign of that name, with the tier frozen in it, as production draws it."""
    of = CAMPAIGN.model_copy(update={"stem": run})
    strata = pd.DataFrame({"account_type": "consumer", "value_tier": units["tier"].to_numpy()})
    strata.index = pd.Index(units["customer_key"])
    return assign(of, units["customer_key"], DAY, empty_ledger(), strata=strata)


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
    return p_values(200)


@pytest.fixture(scope="module")
def long() -> dict[str, np.ndarray]:
    return p_values(2_000)


@pytest.mark.parametrize("metric", RIGHT)
def test_aa_rejects_as_often_as_it_says(short: dict[str, np.ndarray], metric: str) -> None:
    low, high = accept(200)
    assert low <= (short[metric] < 0.05).sum() <= high


@pytest.mark.parametrize("method", WRONG)
def test_aa_sees_a_method_that_is_wrong(short: dict[str, np.ndarray], method: str) -> None:
    assert (short[method] < 0.05).sum() > accept(200)[1]


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
        spend = 50 + known + rng.normal(0, 10, n) + least * ledger["arm"].eq("reminder")
        read = read_out(plan, ledger, units.assign(spend=spend, known=known), DAY + timedelta(28))
        row = read.iloc[0]
        found += row["p_value"] < 0.05
        covered += row["effect_low"] <= least <= row["effect_high"]
    return found, covered


def covered_ratio(runs: int) -> tuple[int, int]:
    """How often the interval of a ratio covers, by strata and a foretold ratio, and by neither.

    The treatment moves orders as well as what one is worth; the strata differ in both.
    """
    rng = np.random.default_rng(8)
    n, share = 1_000, np.array([0.5, 0.3, 0.2])
    rate, worth, lift = np.array([1.0, 2.0, 6.0]), np.array([20.0, 30.0, 80.0]), 1.1
    treated_rate, treated_worth = rate * [1.3, 1.1, 1.0], worth * lift
    truth = share @ (treated_rate * treated_worth) / (share @ treated_rate)
    truth -= share @ (rate * worth) / (share @ rate)
    adjusted = MetricPlan(
        "order_value",
        "secondary",
        value="revenue",
        per="orders",
        covariate="revenue_foretold",
        covariate_per="orders_foretold",
    )
    plain = replace(adjusted, covariate=None, covariate_per=None)
    units = pd.DataFrame({"customer_key": sorted(keys(n))})
    covered = np.zeros(2, dtype=int)
    for run in range(runs):
        tier = rng.choice(3, n, p=share)
        ledger = draw(f"ratio_{run}", units.assign(tier=tier))
        treated = ledger["arm"].eq("reminder").to_numpy()
        taste = rng.gamma(4, 0.25, n)
        orders = rng.poisson(np.where(treated, treated_rate[tier], rate[tier])).astype(float)
        revenue = orders * taste * np.where(treated, treated_worth[tier], worth[tier])
        outcomes = units.assign(
            orders=orders,
            revenue=revenue,
            revenue_foretold=rate[tier] * worth[tier] * taste,
            orders_foretold=rate[tier],
        )
        for i, (metric, stratum) in enumerate(((adjusted, "value_tier"), (plain, None))):
            plan = replace(PLAN, metrics=(metric,), stratum=stratum)
            row = read_out(plan, ledger, outcomes, DAY + timedelta(28)).iloc[0]
            covered[i] += row["effect_low"] <= truth <= row["effect_high"]
    return int(covered[0]), int(covered[1])


def test_the_stated_minimum_is_found_and_covered() -> None:
    found, covered = injected(150)
    for count, rate in ((found, 0.8), (covered, 0.95)):
        low, high = stats.binom.interval(0.999, 150, rate)
        assert low <= count <= high


def test_a_ratio_is_covered_adjusted_or_not() -> None:
    low, high = stats.binom.interval(0.999, 100, 0.95)
    for covered in covered_ratio(100):
        assert low <= covered <= high


@pytest.mark.slow
def test_2000_ratios_are_covered_in_95_percent() -> None:
    for covered in covered_ratio(2_000):
        assert 0.934 <= covered / 2_000 <= 0.966


@pytest.mark.slow
def test_2000_injected_effects_are_found_in_80_percent_and_covered_in_95() -> None:
    found, covered = injected(2_000)
    assert 0.77 <= found / 2_000 <= 0.83
    assert 0.934 <= covered / 2_000 <= 0.966
