"""A ranking is promoted where it surely beats everything that is there, and only there."""

from __future__ import annotations

from pathlib import Path

import hillstrom
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from ml.uplift.comparison import EVERYBODY, NOBODY, compare_rankings, compare_rules
from ml.uplift.curves import qini_score, uplift_at_k
from ml.uplift.learners import TLearner
from ml.uplift.training import RESPONSE_MODEL, learn, scaled, too_small


def world(
    n: int, seed: int, effect: float = 0.3
) -> tuple[np.ndarray, np.ndarray, np.ndarray, pd.Series]:
    """x, outcome, treatment, units: the effect is on customers with x > 0 alone."""
    random = np.random.default_rng(seed)
    x = random.normal(size=n)
    t = (random.random(n) < 0.5).astype(float)
    y = (random.random(n) < 0.2 + effect * t * (x > 0)).astype(float)
    return x, y, t, pd.Series([f"c{i}" for i in range(n)])


def test_an_oracle_is_promoted() -> None:
    x, y, t, units = world(4000, 1)
    found = compare_rankings(y, t, 0.5, units, {"oracle": x}, {"against it": -x}, n_resamples=300)
    assert found.decision.promote
    assert found.decision.name == "oracle"
    assert found.best_baseline == NOBODY  # 0 beats a ranking that is worse than none
    assert "oracle beats nobody by +" in found.decision.reason
    assert found.differences["oracle"].low > 0
    assert found.entry("against it").value < 0
    assert "| oracle |" in found.table()


def test_noise_is_promoted_no_more_often_than_the_level_says() -> None:
    """40 comparisons of four random scores with nothing to find: 0.05 / 2 of them may err."""
    promoted = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        _, y, t, units = world(600, seed, effect=0.0)
        noise = {f"noise {i}": random.random(600) for i in range(4)}
        found = compare_rankings(y, t, 0.5, units, noise, {}, n_resamples=400, seed=seed)
        promoted += found.decision.promote
        assert found.decision.promote or "nothing beats" in found.decision.reason
    assert promoted <= 4  # binomial(40, 0.025): above 4 with probability 0.003


def test_a_copy_of_the_baseline_beats_nothing() -> None:
    x, y, t, units = world(3000, 2)
    found = compare_rankings(y, t, 0.5, units, {"same": x}, {"model": 2 * x}, n_resamples=100)
    assert found.best_baseline == "model"
    assert not found.decision.promote
    assert (found.differences["same"].low, found.differences["same"].high) == (0, 0)
    assert found.decision.reason.startswith("nothing beats model")


def test_units_are_drawn_with_all_their_rows() -> None:
    """Each customer ten times over: ten times the rows, the same knowledge, the same interval."""
    x, y, t, units = world(800, 3)
    once = compare_rankings(y, t, 0.5, units, {"x": x}, {}, n_resamples=300)
    tenfold = compare_rankings(
        np.repeat(y, 10),
        np.repeat(t, 10),
        0.5,
        units.repeat(10).reset_index(drop=True),
        {"x": np.repeat(x, 10)},
        {},
        n_resamples=300,
    )
    assert tenfold.unit_count == once.unit_count == 800
    width = [c.differences["x"].high - c.differences["x"].low for c in (once, tenfold)]
    assert width[1] == pytest.approx(width[0], rel=0.02)


def test_a_rule_must_earn_more_than_contacting_everybody() -> None:
    """A contact costs 1 and brings 3 to half of the customers: contact these."""
    random = np.random.default_rng(4)
    n = 5000
    x = random.random(n) < 0.5
    t = (random.random(n) < 0.5).astype(float)
    profit = random.normal(10, 2, n) + t * (3.0 * x - 1.0)
    units = pd.Series([f"c{i}" for i in range(n)])
    found = compare_rules(
        profit, t, 0.5, units, {"uplift": x}, {"top half by spend": profit > 10}, n_resamples=500
    )
    assert found.entry("uplift").value == pytest.approx(1.0, abs=0.15)
    assert found.entry(EVERYBODY).value == pytest.approx(0.5, abs=0.15)
    assert found.entry(NOBODY).value == 0
    assert found.best_baseline == EVERYBODY
    assert found.decision.promote
    free = compare_rules(
        profit + t, t, 0.5, units, {"uplift": x}, {}, n_resamples=500
    )  # a contact that costs nothing and harms nobody needs no model
    assert not free.decision.promote
    assert "nothing beats everybody" in free.decision.reason


def test_learning_fits_the_best_and_says_whether_to_use_it() -> None:
    random = np.random.default_rng(5)
    x, loyal = random.normal(size=4000), random.normal(size=4000)
    t = (random.random(4000) < 0.5).astype(float)
    # the loyal buy anyway, and a response model puts them first
    y = (random.random(4000) < 0.1 + 0.4 * (loyal > 0) + 0.3 * t * (x > 0)).astype(float)
    X = pd.DataFrame({"x": x, "loyal": loyal})
    units = pd.Series([f"c{i}" for i in range(4000)])
    # an order earns 5, a contact costs 0.8: it pays for those only whom it persuades
    profit = 5 * y - 0.8 * t
    learned = learn(X, y, t, 0.5, units, {"churn_risk": -x}, profit=profit, n_resamples=200)
    assert learned.comparison.decision.promote
    assert learned.money.decision.promote
    assert learned.decision.promote
    assert learned.decision.name == learned.comparison.best_candidate
    assert "in Qini" in learned.decision.reason
    assert "in profit per customer" in learned.decision.reason
    money = learned.profit_model.predict(X)
    assert money[x > 0].mean() > 0 > money[x <= 0].mean()
    told = {entry.name for entry in learned.money.entries if entry.is_baseline}
    assert told == {
        NOBODY,
        EVERYBODY,
        f"as many by {RESPONSE_MODEL}",
        "as many by churn_risk",
    }
    assert np.corrcoef(learned.model.predict(X), x > 0)[0, 1] > 0.7
    names = {entry.name for entry in learned.comparison.entries if entry.is_baseline}
    assert names == {RESPONSE_MODEL, "churn_risk", NOBODY, EVERYBODY}

    # the same ranking where a contact costs nothing: everybody is best, and no model is needed
    free = learn(X, y, t, 0.5, units, {"churn_risk": -x}, profit=5 * y, n_resamples=200)
    assert free.comparison.decision.promote
    assert not free.decision.promote
    assert "money: nothing beats" in free.decision.reason
    # and where it costs more than anybody brings: nobody is
    dear = learn(X, y, t, 0.5, units, {"churn_risk": -x}, profit=5 * y - 4 * t, n_resamples=200)
    assert not dear.decision.promote
    assert dear.money.best_baseline == NOBODY

    _, y, t, units = world(2000, 7, effect=0.0)
    nothing = learn(X[:2000], y, t, 0.5, units, {}, profit=y - 0.1 * t, n_resamples=200)
    assert not nothing.comparison.decision.promote
    assert not nothing.decision.promote
    assert nothing.decision.reason.startswith("ranking: nothing beats")


def test_small_comparisons_are_told_why_they_teach_nothing() -> None:
    _, y, t, _ = world(4000, 8)
    assert too_small(y, t) is None
    assert "the control has 0" not in str(too_small(y[:600], t[:600]))
    assert "500 are needed" in str(too_small(y[:600], t[:600]))
    assert "50 of either kind" in str(too_small(np.where(np.arange(4000) < 20, y, 0.0), t))


def test_the_mens_mail_is_not_promoted(shared: Path) -> None:
    """Hillstrom, visits, every second customer; all of them in the slow test."""
    trial = hillstrom.read(shared / "data" / "hillstrom", hillstrom.MEN)
    trial = trial.rows(np.arange(len(trial.units)) % 2 == 0)
    learned = learn(
        trial.X,
        trial.outcome(),
        trial.treatment,
        hillstrom.PROPENSITY,
        trial.units,
        {"churn_risk": trial.churn_risk},
        profit=hillstrom.profit(trial),
        n_resamples=200,
    )
    assert not learned.comparison.decision.promote
    assert learned.comparison.best_baseline == RESPONSE_MODEL
    assert learned.comparison.decision.reason.startswith("nothing beats response_model")


@pytest.mark.slow
@pytest.mark.parametrize("arm", [hillstrom.WOMEN, hillstrom.MEN])
def test_hillstrom_end_to_end(shared: Path, arm: str) -> None:
    trial = hillstrom.read(shared / "data" / "hillstrom", arm)
    learned = learn(
        trial.X,
        trial.outcome(),
        trial.treatment,
        hillstrom.PROPENSITY,
        trial.units,
        {"churn_risk": trial.churn_risk},
        profit=hillstrom.profit(trial),
    )
    found = learned.comparison
    assert found.best_baseline == RESPONSE_MODEL
    assert found.decision.promote == (arm == hillstrom.WOMEN), found.decision.reason
    # visits can be ranked, money cannot: 0.10 a mail is less than it brings on average
    assert not learned.decision.promote
    assert learned.money.best_baseline == EVERYBODY
    assert found.entry("churn_risk").value < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("arm", [hillstrom.WOMEN, hillstrom.MEN])
def test_twelve_splits_of_hillstrom(shared: Path, arm: str) -> None:
    """The acceptance bands; splits overlap, so their spread is no standard error."""
    trial = hillstrom.read(shared / "data" / "hillstrom", arm)
    rows: dict[str, list[tuple[float, float]]] = {}
    for seed in range(12):
        fit, test = train_test_split(
            np.arange(len(trial.units)),
            test_size=0.5,
            random_state=seed,
            stratify=trial.treatment,
        )
        X, y, t = trial.X, trial.outcome(), trial.treatment
        treated = fit[t[fit] == 1]
        response = HistGradientBoostingClassifier(max_depth=3, max_iter=60, random_state=0)
        scores = {
            "t_learner": TLearner(LogisticRegression(max_iter=1000), scaled())
            .fit(X.iloc[fit], y[fit], treatment=t[fit], propensity=0.5)
            .predict(X.iloc[test]),
            RESPONSE_MODEL: response.fit(X.iloc[treated], y[treated]).predict_proba(X.iloc[test])[
                :, 1
            ],
            "random": np.random.default_rng(seed).random(len(test)),
        }
        for name, score in scores.items():
            measured = (qini_score(y[test], t[test], score), uplift_at_k(y[test], t[test], score))
            rows.setdefault(name, []).append(measured)
    qini = {name: np.mean([q for q, _ in found]) for name, found in rows.items()}
    at_30 = {name: np.mean([u for _, u in found]) for name, found in rows.items()}
    assert abs(qini["random"]) < 0.03
    if arm == hillstrom.WOMEN:
        assert 0.050 <= qini["t_learner"] <= 0.072
        assert 0.065 <= at_30["t_learner"] <= 0.082
        assert qini["t_learner"] > qini[RESPONSE_MODEL]
    else:
        assert qini["t_learner"] < qini[RESPONSE_MODEL]
