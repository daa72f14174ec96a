"""Gates refuse what must be refused, and errors are spent once."""

from __future__ import annotations

import itertools
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from ml.estimators import logit, sigmoid
from ml.metrics import evaluate
from ml.promotion import (
    QUARTER_ERROR_BUDGET,
    SLICE_MARGIN,
    alpha_of,
    auc_difference,
    calibration_gates,
    difference,
    leak_suspicion,
    quarter_of,
    season_note,
    slice_gate,
)
from ml.slices import slices

DAYS = [date(2025, 1, 1) + timedelta(days=30 * k) for k in range(4)]
BOOT = {"n_resamples": 200, "seed": 1}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """1,500 customers in four snapshots; `truth` is their probability."""
    random = np.random.default_rng(4)
    n = 1500
    lean = random.normal(size=n)
    blocks = []
    for day in DAYS:
        truth = sigmoid(lean + 0.5 * random.normal(size=n))
        blocks.append(
            pd.DataFrame(
                {
                    "snapshot_date": day,
                    "customer_key": [f"{i:05}" for i in range(n)],
                    "truth": truth,
                    "is_churned": (random.random(n) < truth).astype(int),
                    "is_large": np.arange(n) % 10 > 2,
                }
            )
        )
    return pd.concat(blocks, ignore_index=True)


def _calibration(rows: pd.DataFrame, p: np.ndarray) -> dict[str, bool]:
    table = rows.assign(p=p)
    by = {
        day: evaluate(own["is_churned"].to_numpy(), own["p"].to_numpy())
        for day, own in table.groupby("snapshot_date")
    }
    gates = calibration_gates(evaluate(rows["is_churned"].to_numpy(), p), by)
    return {gate.name: gate.passed for gate in gates}


def test_the_truth_passes_and_each_fault_trips_its_gate(rows: pd.DataFrame) -> None:
    p = rows["truth"].to_numpy()
    assert _calibration(rows, p) == {
        "calibration_bias": True,
        "calibration_slope": True,
        "brier_beats_base_rate": True,
    }
    assert not _calibration(rows, sigmoid(logit(p) + 0.5))["calibration_bias"]
    late = rows["snapshot_date"] == DAYS[-1]  # fine on the mean, and one snapshot is far off
    assert not _calibration(rows, np.where(late, sigmoid(logit(p) + 1.2), p))["calibration_bias"]
    assert not _calibration(rows, sigmoid(logit(p) * 2))["calibration_slope"]
    assert not _calibration(rows, sigmoid(logit(p) * 0.5))["calibration_slope"]
    inverted = _calibration(rows, 1 - p)
    assert not inverted["calibration_slope"]
    assert not inverted["brier_beats_base_rate"]
    constant = _calibration(rows, np.full(len(rows), rows["is_churned"].mean()))
    assert not constant["calibration_slope"]
    assert not constant["brier_beats_base_rate"]


def test_the_budget_of_a_quarter_is_never_overspent() -> None:
    spent = [alpha_of(n) for n in range(1, 10_000)]
    assert all(b < a for a, b in itertools.pairwise(spent))
    assert sum(spent) < QUARTER_ERROR_BUDGET
    assert sum(spent) > 0.99 * QUARTER_ERROR_BUDGET
    with pytest.raises(ValueError, match="counted from 1"):
        alpha_of(0)
    assert quarter_of(date(2025, 3, 31)) == "2025Q1"
    assert quarter_of(date(2025, 10, 1)) == "2025Q4"


def test_equal_models_win_as_often_as_the_error_says(rows: pd.DataFrame) -> None:
    """Two models of equal noise: the p-value is small in about as many worlds as it says."""
    wins, worlds = 0, 60
    for seed in range(worlds):
        random = np.random.default_rng(seed)
        z = logit(rows["truth"].to_numpy())
        noise = random.normal(size=(2, len(rows))) * 0.5
        table = rows.assign(a=sigmoid(z + noise[0]), b=sigmoid(z + noise[1]))
        _, p = difference(table, "a", "b", n_resamples=60, seed=seed)
        wins += p < 0.2
    assert 0.05 < wins / worlds < 0.4
    better = rows.assign(a=rows["truth"], b=0.5)
    found, p = difference(better, "a", "b", **BOOT)
    assert found.high < 0
    assert p < 1e-6
    assert difference(better, "a", "a", **BOOT)[1] == 0.5


def test_the_difference_of_auc_is_paired(rows: pd.DataFrame) -> None:
    z = logit(rows["truth"].to_numpy())
    noise = np.random.default_rng(0).normal(size=len(rows))
    table = rows.assign(a=rows["truth"], b=sigmoid(z + 0.05 * noise), c=sigmoid(z + noise))
    near, far = auc_difference(table, "b", "a", **BOOT), auc_difference(table, "c", "a", **BOOT)
    assert near.low > -0.005  # a refresh of the same recipe
    assert far.high < -0.005
    assert near.high - near.low < (far.high - far.low) / 3
    assert auc_difference(table, "a", "a", **BOOT).estimate == 0


def test_a_leak_is_held() -> None:
    assert leak_suspicion({"roc_auc": 0.79}, 0.01, "boosting") is None
    assert leak_suspicion({"roc_auc": 0.79}, None, "") is None
    assert "above 0.9" in str(leak_suspicion({"roc_auc": 0.93}, 0.0, "boosting"))
    assert "of boosting" in str(leak_suspicion({"roc_auc": 0.81}, 0.02, "boosting"))


def test_only_a_slice_that_loses_beyond_doubt_refuses(rows: pd.DataFrame) -> None:
    z = logit(rows["truth"].to_numpy())
    large = rows["is_large"].to_numpy()
    table = rows.assign(
        champion=rows["truth"],
        harmful=sigmoid(np.where(large, z, -z)),  # turned around for three customers in ten
        slight=sigmoid(np.where(large, z, z + 0.1)),
    )
    by = {"size": pd.Series(np.where(large, "large", "small"), table.index)}
    harmful = slice_gate(table, by, "harmful", "champion", **BOOT)
    assert not harmful.passed
    assert "size small" in harmful.detail
    assert "large" not in harmful.detail
    assert slice_gate(table, by, "slight", "champion", **BOOT).passed  # worse, within the margin
    assert slice_gate(table, by, "champion", "champion", **BOOT).passed
    few = table[(table["customer_key"] < "00299") & ~table["is_large"] | table["is_large"]]
    few = few.reset_index(drop=True)
    by = {"size": pd.Series(np.where(few["is_large"], "large", "small"), few.index)}
    told = slice_gate(few, by, "harmful", "champion", **BOOT)
    assert told.passed  # fewer than 300 customers are shown, and refuse nothing
    assert "none of 1 slices" in told.detail
    assert SLICE_MARGIN == 0.02


def test_holm_asks_more_of_many_slices(rows: pd.DataFrame) -> None:
    """A loss that refuses alone is noise among many slices."""
    z = logit(rows["truth"].to_numpy())
    table = rows.assign(champion=rows["truth"])
    own = {"all": pd.Series("everybody", table.index)}
    for shift in np.linspace(0.2, 0.8, 61):
        table["shifted"] = sigmoid(z + shift)
        if not slice_gate(table, own, "shifted", "champion", **BOOT).passed:
            break
    many = own | {f"copy {k}": own["all"] for k in range(200)}
    assert not slice_gate(table, own, "shifted", "champion", **BOOT).passed
    assert slice_gate(table, many, "shifted", "champion", **BOOT).passed


def test_the_season_is_unlearned_before_two_years() -> None:
    assert "season is unlearned" in season_note(date(2024, 1, 1), date(2025, 6, 1))
    assert "at least twice" in season_note(date(2023, 1, 1), date(2025, 6, 1))


def test_a_model_of_treated_customers_only_is_refused() -> None:
    """A contact keeps exactly those who were about to leave; who learns of them alone errs."""
    random = np.random.default_rng(8)
    n = 6_000
    silence = random.normal(size=n)
    treated = random.random(n) < 0.3
    leaves = random.random(n) < sigmoid(np.where(treated, -1.5 * silence, 1.5 * silence))
    own = LogisticRegression().fit(silence[treated, None], leaves[treated])
    everybody = LogisticRegression().fit(silence[:, None], leaves)
    table = pd.DataFrame(
        {
            "snapshot_date": DAYS[0],
            "customer_key": [f"{i:05}" for i in range(n)],
            "is_churned": leaves.astype(int),
            "own": own.predict_proba(silence[:, None])[:, 1],
            "champion": everybody.predict_proba(silence[:, None])[:, 1],
            "was_contacted": treated,
            "days_since_first_order": 400,
            "revenue_amount_365d": 10.0,
        }
    )
    gate = slice_gate(table, slices(table), "own", "champion", **BOOT)
    assert not gate.passed
    assert "contact not contacted" in gate.detail
    assert slice_gate(table, slices(table), "champion", "own", **BOOT).detail.count("contact ") == 1
