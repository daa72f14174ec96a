"""A training is honest: out of time, gated, reproducible, and it says why."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits
from training_world import (
    FIRST,
    HORIZON,
    SETTINGS,
    quick_recipes,
    small_recipes,
    training_frame,
)

from ml.candidates import candidates
from ml.estimators import SelectFeatures
from ml.features import INPUTS, FeatureError
from ml.fitting import known_periods, teaching_rows
from ml.metrics import log_losses
from ml.scoring import score
from ml.survival import TARGET
from ml.training import (
    Champion,
    Fallback,
    TrainingResult,
    TrainingSkipped,
    known_by,
    on_grid,
    train,
)

AS_OF = FIRST + timedelta(days=14 * 13 + HORIZON)
NAMES = [
    "recency_rule",
    "logistic_rfm",
    "logistic_all",
    "random_forest",
    "hist_gradient_boosting",
    "buy_till_you_die",
    "survival",
    "mlp",
    "average",
]


def _attempt(frame: pd.DataFrame, as_of: date = AS_OF, **changes: Any) -> TrainingResult | Fallback:
    options: dict[str, Any] = {"settings": SETTINGS, "recipes": quick_recipes(), **changes}
    return train(frame, as_of, HORIZON, 7, **options)


def _train(frame: pd.DataFrame, as_of: date = AS_OF, **changes: Any) -> TrainingResult:
    result = _attempt(frame, as_of, **changes)
    assert isinstance(result, TrainingResult)
    return result


def _fall_back(frame: pd.DataFrame, as_of: date = AS_OF, **changes: Any) -> Fallback:
    result = _attempt(frame, as_of, **changes)
    assert isinstance(result, Fallback)
    return result


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return training_frame()


@pytest.fixture(scope="module")
def result(frame: pd.DataFrame) -> TrainingResult:
    """All candidates, and the average."""
    return _train(frame, recipes=small_recipes())


def test_all_candidates_are_measured_on_the_same_rows(result: TrainingResult) -> None:
    assert [c.name for c in result.candidates] == NAMES
    assert sorted(result.ranking) == sorted(NAMES)
    losses = [result.candidate(name).metrics["log_loss"] for name in result.ranking]
    assert losses == sorted(losses)
    assert {c.metrics["row_count"] for c in result.candidates} == {len(result.predictions)}
    assert len(result.origins) == 3
    for candidate in result.candidates:
        assert len(candidate.metrics_by_origin) == 3
        assert candidate.fit_seconds > 0
        contacted = result.predictions["was_contacted"].sum()
        assert candidate.metrics_uncontacted["row_count"] == len(result.predictions) - contacted
        for purpose in ("capacity", "profit", "roc"):
            assert f"f1_at_{purpose}" in candidate.metrics


def test_the_signal_is_found_and_the_gates_let_it_pass(result: TrainingResult) -> None:
    chosen = result.candidate(result.chosen)
    assert result.chosen not in ("recency_rule", "logistic_rfm")  # half of the risk is in events
    assert chosen.passed
    assert chosen.metrics["roc_auc"] > 0.85
    assert chosen.metrics["ece"] < 0.08
    assert [gate.name for gate in chosen.gates] == [
        "finite",
        "beats_no_skill",
        "beats_recency_rule",
        "calibration_bias",
        "calibration_slope",
        "brier_beats_base_rate",
    ]
    assert result.decision.promote
    assert set(result.importances["feature"].head(2)) == {
        "days_since_last_order",
        "days_since_last_event",
    }
    assert len(result.importances) == len(INPUTS)
    assert (result.importances["low"] <= result.importances["importance"]).all()
    assert (result.importances["importance"] <= result.importances["high"]).all()


def test_the_model_is_refitted_on_all_matured_labels(result: TrainingResult) -> None:
    days = sorted(training_frame()["snapshot_date"].unique())
    assert result.refit.matured == tuple(days)
    assert result.last_matured_date == AS_OF
    assert result.training_row_count == len(training_frame())


def test_nothing_that_matured_later_can_be_seen(
    frame: pd.DataFrame, result: TrainingResult
) -> None:
    """Turn around every label that had not matured by the first test snapshot."""
    first = result.origins[0].test
    late = frame["matured_date"] > first
    turned = frame.assign(is_churned=frame["is_churned"].where(~late, 1 - frame["is_churned"]))
    other = _train(turned, recipes=small_recipes())
    here = result.predictions["snapshot_date"] == first
    before, after = result.predictions[NAMES], other.predictions[NAMES]
    pd.testing.assert_frame_equal(before[here], after[here])
    assert not (before[~here] == after[~here]).all().any()  # the turn was not in vain


def test_labels_of_the_test_rows_choose_no_threshold(frame: pd.DataFrame) -> None:
    """Recall at a threshold may change with the test labels, who is predicted may not."""
    plain = _train(frame)
    last = plain.origins[-1].test
    turned = frame.assign(
        is_churned=frame["is_churned"].where(
            frame["snapshot_date"] != last, 1 - frame["is_churned"]
        )
    )
    other = _train(turned)
    before = plain.candidate("logistic_all").metrics_by_origin[last]
    after = other.candidate("logistic_all").metrics_by_origin[last]
    for purpose in ("capacity", "profit", "roc"):
        # the same customers are predicted, so turning all labels turns all hits into misses
        accuracy = f"accuracy_at_{purpose}"
        assert before[accuracy] + after[accuracy] == pytest.approx(1)


def test_labels_after_the_day_are_ignored(frame: pd.DataFrame) -> None:
    """Labels, and snapshots: whether they are hidden or only later, it is the same training."""
    as_of = AS_OF - timedelta(days=14)
    known = frame[frame["snapshot_date"] <= as_of]
    known = known.assign(
        is_churned=known["is_churned"].where(known["matured_date"] <= as_of).astype("float64")
    )
    a, b = _train(frame, as_of), _train(known, as_of)
    assert a.data_digest == b.data_digest
    pd.testing.assert_frame_equal(a.predictions, b.predictions)


def test_threads_and_row_order_change_nothing(frame: pd.DataFrame, result: TrainingResult) -> None:
    shuffled = frame.sample(frac=1, random_state=5).reset_index(drop=True)
    with threadpool_limits(2):
        again = _train(shuffled, recipes=small_recipes())
    pd.testing.assert_frame_equal(again.predictions, result.predictions)
    pd.testing.assert_frame_equal(again.importances, result.importances)
    assert again.data_digest == result.data_digest
    assert again.thresholds == result.thresholds
    before, after = result.model.predict_proba(frame), again.model.predict_proba(frame)
    assert np.array_equal(np.round(before, 6), np.round(after, 6))


def test_timestamps_are_taken_as_dates(frame: pd.DataFrame) -> None:
    stamped = frame.assign(
        snapshot_date=pd.to_datetime(frame["snapshot_date"]),
        matured_date=pd.to_datetime(frame["matured_date"]),
    )
    assert _train(stamped).data_digest == _train(frame).data_digest


def test_without_signal_the_recency_rule_serves() -> None:
    noise = _train(training_frame(signal=0.0), recipes=small_recipes())
    assert not any(candidate.passed for candidate in noise.candidates)
    assert noise.chosen == "recency_rule"
    assert noise.decision.promote
    assert "no candidate passes the gates" in noise.decision.reason


def test_noise_never_replaces_a_champion() -> None:
    frame = training_frame(signal=0.0)
    champion = Champion(4, "logistic_all", AS_OF, _Constant(0.5))
    decision = _train(frame, champion=champion).decision
    assert not decision.promote
    assert "no candidate passes the gates" in decision.reason


class _Constant:
    """A frozen model that gives everyone the same probability."""

    def __init__(self, p: float) -> None:
        self.p = p

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        return np.full((len(X), 2), [1 - self.p, self.p])


def test_a_weak_frozen_champion_is_replaced(frame: pd.DataFrame) -> None:
    old = Champion(3, "logistic_rfm", FIRST, _Constant(0.5))
    result = _train(frame, champion=old)
    found = result.decision.log_loss_difference
    assert result.decision.promote
    assert found is not None
    assert found.high < 0
    assert "logistic_all replaces champion version 3" in result.decision.reason
    assert result.champion_metrics is not None
    assert result.champion_metrics["log_loss"] == pytest.approx(np.log(2))
    y, p = result.predictions["is_churned"], result.predictions["logistic_all"]
    expected = log_losses(y.to_numpy(), p.to_numpy()).mean() - np.log(2)
    assert found.estimate == pytest.approx(expected)


def test_a_young_champion_is_judged_by_its_recipe_refitted(frame: pd.DataFrame) -> None:
    """Its frozen model has seen the test labels: here it would look perfect, and is not asked."""
    young = Champion(3, "recency_rule", AS_OF, _Constant(np.nan))
    result = _train(frame, champion=young)
    assert result.decision.promote
    assert (result.predictions["champion"] == result.predictions["recency_rule"]).all()


def test_a_protected_attribute_is_given_to_a_model_only_where_it_is_switched_on(
    frame: pd.DataFrame,
) -> None:
    told = frame["customer_key"] < "8"
    # women stay more often: a model that may know it will use it
    random = np.random.default_rng(3)
    stays = told & (random.random(len(frame)) < 0.6)
    people = frame.assign(
        gender=np.where(told, "f", "m"), is_churned=np.where(stays, 0, frame["is_churned"])
    )
    off = _train(people)
    assert off.features == INPUTS
    assert "are no features of the model" in off.fairness_note
    inputs = (*INPUTS, "gender_f")
    every = candidates(1, inputs, horizon_days=HORIZON)
    knows = {"features": inputs, "recipes": {name: every[name] for name in quick_recipes()}}
    on = _train(people, **knows)
    assert on.importances.set_index("feature").loc["gender_f", "low"] > 0
    assert "The model uses gender as features, switched on by the shop." in on.fairness_note
    assert on.candidate("logistic_all").metrics["roc_auc"] > (
        off.candidate("logistic_all").metrics["roc_auc"] + 0.02
    )
    # and when it is switched off again, the champion that knows it must go, though it is better
    champion = Champion(3, "logistic_all", FIRST, on.model, ("gender",))
    said: list[str] = []
    after = _train(people, champion=champion, on_progress=said.append)
    assert after.decision.promote
    assert after.decision.reason.startswith(
        "champion version 3 uses gender, now switched off, and is replaced: logistic_all has"
    )
    alone = _fall_back(people.iloc[:0], champion=champion)
    assert "champion version 3 uses gender, now switched off" in alone.decision.reason
    assert "first champion" not in alone.decision.reason
    assert "champion version 3 uses gender, now switched off" in said
    stays_on = _train(people, champion=champion, **knows)
    assert "champion" in stays_on.predictions
    old = Champion(2, "logistic_all", FIRST, off.model)
    known = _train(people, champion=old, **knows)
    assert known.champion_metrics is not None


def test_the_same_recipe_on_the_same_labels_changes_nothing(frame: pd.DataFrame) -> None:
    same = Champion(3, "logistic_all", AS_OF, _Constant(0.5))
    decision = _train(frame, champion=same).decision
    assert not decision.promote
    assert "nothing has matured since it was fitted" in decision.reason


def test_the_same_recipe_is_refreshed_by_newer_labels(frame: pd.DataFrame) -> None:
    """It must be no worse, not better: otherwise a champion grows stale."""
    older = Champion(3, "logistic_all", AS_OF - timedelta(days=14), _Constant(np.nan))
    result = _train(frame, champion=older)
    assert result.decision.promote
    assert "logistic_all refreshes champion version 3" in result.decision.reason
    assert result.decision.spent_alpha is None  # a refresh is no challenger


def test_a_refresh_that_may_be_worse_is_refused(frame: pd.DataFrame) -> None:
    """The frozen champion knows the truth of the test rows; its recipe on new labels does not."""
    oracle = Champion(3, "logistic_all", FIRST, _Oracle(frame))
    decision = _train(frame, champion=oracle).decision
    assert not decision.promote
    assert "its recipe on newer labels may be worse" in decision.reason


def test_a_champion_that_is_not_beaten_is_refreshed(frame: pd.DataFrame) -> None:
    """The best is a new recipe, but not beyond doubt: the champion's own follows the champion."""
    settings = replace(SETTINGS, attempt=10**9)  # nothing of the budget is left
    older = Champion(3, "recency_rule", AS_OF - timedelta(days=14), _Constant(np.nan))
    result = _train(frame, champion=older, settings=settings)
    assert result.ranking[0] == "logistic_all"
    assert result.chosen == "recency_rule"
    assert result.decision.spent_alpha is not None
    assert result.decision.spent_alpha < 1e-15
    assert result.decision.promote
    assert "recency_rule refreshes champion" in result.decision.reason


class _Oracle:
    """A frozen model that has the labels of the test rows by heart."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.known = {tuple(x): y for x, y in zip(_key(frame), frame["is_churned"], strict=True)}

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        p = np.array([0.98 if self.known[tuple(x)] else 0.02 for x in _key(X)])
        return np.column_stack([1 - p, p])


def _key(frame: pd.DataFrame) -> np.ndarray:
    names = ["days_since_last_event", "days_since_last_order", "revenue_amount_365d"]
    names += ["order_count_30d", "event_count_30d", "view_count_30d", "product_count_365d"]
    return frame[names].to_numpy(dtype="float64")


def test_a_champion_that_cannot_be_judged_out_of_time_stays(frame: pd.DataFrame) -> None:
    gone = Champion(3, "a_recipe_of_last_year", AS_OF, _Constant(0.5))
    result = _train(frame, champion=gone)
    assert not result.decision.promote
    assert "no comparison would be out of time" in result.decision.reason
    between = replace(gone, last_matured_date=result.origins[1].test)
    judged = _train(frame, champion=between)
    assert judged.decision.promote  # by the two origins at which its labels had matured
    rows = judged.predictions.groupby("snapshot_date")["champion"].count()
    assert (rows == 0).tolist() == [True, False, False]


# what leaves nothing to compare, as of when, and what is told of it
INCOMPARABLE = pytest.mark.parametrize(
    ("change", "as_of", "told"),
    [
        (lambda f: f.iloc[:0], AS_OF, "no label has matured"),
        (lambda f: f, FIRST, "no label has matured"),
        (lambda f: f, FIRST + timedelta(days=60), "history is too short"),
        (lambda f: f.assign(is_churned=1), AS_OF, "at least 20 of each class"),
        (lambda f: f.assign(is_churned=0), AS_OF, "at least 20 of each class"),
        (lambda f: f[f["customer_key"] < "1"], AS_OF, "earlier rows, at least 200 are needed"),
        (lambda f: f.head(1), AS_OF, "history is too short"),
    ],
)


@INCOMPARABLE
def test_a_champion_stays_where_nothing_can_be_compared(
    frame: pd.DataFrame, change: Any, as_of: date, told: str
) -> None:
    with pytest.raises(TrainingSkipped, match=told):
        _attempt(change(frame), as_of, champion=Champion(1, "recency_rule", FIRST, _Constant(0.5)))


@INCOMPARABLE
def test_without_a_champion_the_recency_rule_serves_meanwhile(
    frame: pd.DataFrame, change: Any, as_of: date, told: str
) -> None:
    rows = change(frame)
    messages: list[str] = []
    found = _fall_back(rows, as_of, on_progress=messages.append)
    matured = rows[rows["matured_date"] <= as_of]
    assert found.chosen == "recency_rule"
    assert found.training_row_count == len(matured)
    assert found.last_matured_date == max(matured["matured_date"], default=as_of)
    assert found.decision.promote
    for text in (found.decision.reason, *messages):
        assert told in text
        assert "recency_rule serves until candidates can be compared" in text
    assert len(messages) == 1
    p = _after_silence(found, frame)
    assert ((p > 0) & (p < 1)).all()
    assert (np.diff(p) >= 0).all()  # probabilities have six digits: the last ones are equal
    assert p[-1] > p[0]


def _after_silence(found: Fallback, frame: pd.DataFrame) -> np.ndarray:
    """Score a customer of the frame after 0, 1, ... 179 days of silence, as the daily job does."""
    customers = frame.iloc[[0] * 180].assign(
        days_since_last_order=range(180), customer_key=[f"{i:03}" for i in range(180)]
    )
    return score(found.model, customers)["churn_probability"].to_numpy()


def test_without_labels_the_rule_believes_what_its_prior_says(frame: pd.DataFrame) -> None:
    p = _after_silence(_fall_back(frame.iloc[:0]), frame)
    assert p[0] == pytest.approx(0.17, abs=0.02)
    assert p[HORIZON // 2] == pytest.approx(0.5, abs=0.02)
    assert p[2 * HORIZON] == pytest.approx(0.69, abs=0.02)


def test_labels_move_the_fallback_from_its_prior(frame: pd.DataFrame) -> None:
    """Few a little, many nearly to what the rule alone learns of them; of one class, all of it."""
    day = frame[frame["snapshot_date"] == FIRST]
    none, few, many = (
        _after_silence(_fall_back(rows), frame) for rows in (day.iloc[:0], day.head(10), day)
    )
    alone = quick_recipes()["recency_rule"].fit(day, day["is_churned"])
    learnt = _after_silence(replace(_fall_back(day), model=alone), frame)
    assert np.abs(many - learnt).mean() < 0.05
    assert np.abs(many - learnt).mean() < np.abs(none - learnt).mean() / 3
    assert np.abs(few - none).mean() > 0.02
    churned, stayed = (
        _after_silence(_fall_back(day.assign(is_churned=y)), frame).mean() for y in (1, 0)
    )
    assert churned > 0.9 > 0.1 > stayed


def test_a_fallback_ignores_labels_after_the_day(frame: pd.DataFrame) -> None:
    as_of = FIRST + timedelta(days=HORIZON)
    late = frame["matured_date"] > as_of
    turned = frame.assign(is_churned=frame["is_churned"].where(~late, 1 - frame["is_churned"]))
    before, after = _fall_back(frame, as_of), _fall_back(turned, as_of)
    assert before.data_digest == after.data_digest
    assert (_after_silence(before, frame) == _after_silence(after, frame)).all()


def test_a_fallback_gives_way_as_any_champion(frame: pd.DataFrame) -> None:
    """By its own frozen predictions: its labels had matured before every test snapshot."""
    rule = _fall_back(frame, FIRST + timedelta(days=HORIZON))
    champion = Champion(1, rule.chosen, rule.last_matured_date, rule.model)
    result = _train(frame, champion=champion)
    assert result.decision.promote
    assert "logistic_all replaces champion version 1 (recency_rule)" in result.decision.reason
    rows = result.predictions.merge(frame, on=["snapshot_date", "customer_key"])
    expected = np.round(rule.model.predict_proba(rows)[:, 1], 6)
    assert (rows["champion"] == expected).all()
    assert not (rows["champion"] == rows["recency_rule"]).all()
    noise = _train(training_frame(signal=0.0), champion=champion)
    assert not noise.decision.promote


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: f.drop(columns="was_contacted"), "lacks was_contacted"),
        (lambda f: f.assign(is_churned=2), "other than 0 and 1"),
        (lambda f: pd.concat([f, f.head(1)]), "repeats"),
        (lambda f: f.assign(matured_date=AS_OF), "another horizon"),
    ],
)
def test_a_wrong_frame_is_an_error(frame: pd.DataFrame, change: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        _train(change(frame))


def test_a_broken_feature_is_an_error(frame: pd.DataFrame) -> None:
    with pytest.raises(FeatureError, match="order_count_30d"):
        _train(frame.assign(order_count_30d=np.inf))


@pytest.mark.parametrize(("step", "is_dated"), [(None, True), (21, False)])
def test_a_step_at_which_no_snapshot_stands_stops_nothing(
    frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, step: int | None, is_dated: bool
) -> None:
    """Fortnights thinned to 21 days stand every 28; where periods do not follow, labels teach."""
    asked: set[int] = set()

    def two(seed: int, features: tuple[str, ...], *, horizon_days: int, step_days: int) -> Any:
        asked.add(step_days)
        made = candidates(seed, features, horizon_days=horizon_days, step_days=step or step_days)
        made["survival"].set_params(model__estimator__max_iter=30)
        return {name: made[name] for name in ("recency_rule", "survival")}

    monkeypatch.setattr("ml.training.candidates", two)
    horizon = 56
    matured = frame["snapshot_date"] + timedelta(days=horizon)
    rows, as_of = frame.assign(matured_date=matured), max(matured)
    settings = replace(SETTINGS, snapshot_spacing_days=21)
    result = train(rows, as_of, horizon, 7, settings=settings, searched={})
    assert isinstance(result, TrainingResult)
    assert "survival" in result.ranking
    assert asked == {28}
    _, panel = on_grid(known_by(rows, as_of, horizon, INPUTS), 21)
    recipe = two(7, INPUTS, horizon_days=horizon, step_days=28)["survival"]
    _, taught = teaching_rows(panel, result.refit, known_periods(recipe), 60_000, 7)
    assert (taught.dtype == TARGET) is is_dated


def test_progress_is_told(frame: pd.DataFrame) -> None:
    told: list[str] = []
    _train(frame, on_progress=told.append)
    assert sum("as of" in message for message in told) == 3
    assert "refitting logistic_all" in told[-1]
    assert not any(key in " ".join(told) for key in frame["customer_key"].head(50))


class _Inverted(LogisticRegression):
    """Says the opposite of what it learnt."""

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return super().predict_proba(X)[:, ::-1]


def _with(model: Any, names: tuple[str, ...] = ("days_since_last_order",)) -> dict[str, Any]:
    recipes = {"recency_rule": quick_recipes()["recency_rule"]}
    recipes["suspect"] = Pipeline([("features", SelectFeatures(names)), ("model", model)])
    return recipes


@pytest.mark.parametrize(
    ("model", "gates"),
    [
        (DummyClassifier(strategy="prior"), {"beats_no_skill", "beats_recency_rule"}),
        (_Inverted(), {"beats_no_skill", "beats_recency_rule"}),
    ],
)
def test_a_constant_and_an_inverted_model_are_refused(
    frame: pd.DataFrame, model: Any, gates: set[str]
) -> None:
    result = _train(frame, recipes=_with(model))
    failed = {gate.name for gate in result.candidate("suspect").gates if not gate.passed}
    assert gates <= failed
    assert result.chosen == "recency_rule"


def test_a_leaking_model_is_held(frame: pd.DataFrame) -> None:
    """A feature that knows the label: it passes every gate, and serves nobody."""
    noise = np.random.default_rng(2).random(len(frame)) < 0.05
    leak = frame.assign(review_count_365d=((frame["is_churned"] == 1) ^ noise).astype("float64"))
    names = ("days_since_last_order", "review_count_365d")
    result = _train(leak, recipes=_with(LogisticRegression(), names))
    assert result.chosen == "suspect"
    assert result.candidate("suspect").passed
    assert not result.decision.promote
    assert result.decision.held is not None
    assert "ROC AUC" in result.decision.held
    champion = Champion(3, "recency_rule", FIRST, _Constant(0.5))
    again = _train(leak, recipes=_with(LogisticRegression(), names), champion=champion)
    assert not again.decision.promote
    assert again.decision.held is not None
    # who must not serve any more does so until a person has looked: that has to be told
    off = replace(champion, protected=("gender",))
    still = _train(leak, recipes=_with(LogisticRegression(), names), champion=off).decision
    assert not still.promote
    assert "suspect is held" in still.reason
    assert still.reason.endswith(
        "champion version 3 uses gender, now switched off, and still serves until somebody signs "
        "and promotes"
    )


def test_a_model_whose_level_is_off_is_refused(frame: pd.DataFrame) -> None:
    """Half of those who would stay leave from one day on: what was learnt before is off by it."""
    day = sorted(frame["snapshot_date"].unique())[6]
    random = np.random.default_rng(1).random(len(frame)) < 0.6
    churned = (frame["snapshot_date"] >= day) & random | (frame["is_churned"] == 1)
    result = _train(frame.assign(is_churned=churned.astype(int)))
    failed = {gate.name for gate in result.candidate("logistic_all").gates if not gate.passed}
    assert "calibration_bias" in failed
    assert result.chosen != "logistic_all"


def test_test_snapshots_span_two_horizons(result: TrainingResult) -> None:
    tests = [split.test for split in result.origins]
    assert min((b - a).days for a, b in pairwise(tests)) >= 30
    assert (tests[-1] - tests[0]).days >= HORIZON
