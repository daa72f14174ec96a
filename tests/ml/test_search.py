"""Settings are chosen by time: nothing that was known later has any influence."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from training_world import FIRST, HORIZON, SETTINGS, small_recipes, training_frame

from ml.features import INPUTS
from ml.search import Searched, search, tuned
from ml.survival import DiscreteTimeSurvival
from ml.training import TrainingResult, known_by, on_grid, train
from ml.validation import split_at

AS_OF = FIRST + timedelta(days=14 * 13 + HORIZON)
CUT = FIRST + timedelta(days=14 * 11)  # what is searched by; later days exist and tell nothing
LEAVES = "model__estimator__max_leaf_nodes", "model__max_leaf_nodes"
TRIED: dict[str, tuple[dict[str, Any], ...]] = {
    "survival": ({LEAVES[0]: 2}, {LEAVES[0]: 8}),
    "hist_gradient_boosting": ({LEAVES[1]: 2}, {LEAVES[1]: 8}),
}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return training_frame(customers=700)


def _panel(frame: pd.DataFrame) -> pd.DataFrame:
    return on_grid(known_by(frame, AS_OF, HORIZON, INPUTS), 14)[1]


def _search(frame: pd.DataFrame, **changes: Any) -> Searched:
    options: dict[str, Any] = {"recipes": small_recipes(), "settings": TRIED, **changes}
    panel = _panel(frame)
    served = split_at(sorted(panel["snapshot_date"].unique()), AS_OF, HORIZON)
    assert served is not None
    return search(
        options["recipes"], options["settings"], panel, CUT, served, HORIZON, INPUTS, seed=7
    )


def test_what_matured_after_the_cut_changes_nothing(frame: pd.DataFrame) -> None:
    """Labels that matured later are turned round, and whole later snapshots are other ones."""
    found = _search(frame)
    changed = frame.copy()
    late = (changed["matured_date"] > CUT).to_numpy()
    changed.loc[late, "is_churned"] = 1 - changed.loc[late, "is_churned"]
    after = (changed["snapshot_date"] > CUT).to_numpy()
    changed.loc[after, "days_since_last_order"] = 1.0  # as if everybody had bought
    assert 0.2 < late.mean() < 0.5
    again = _search(changed)
    pd.testing.assert_frame_equal(found.tried, again.tried)
    assert found.chosen == again.chosen
    assert max(found.origins) + timedelta(days=HORIZON) <= CUT
    # and what matured before it does count
    early = ~late
    changed.loc[early, "is_churned"] = 1 - changed.loc[early, "is_churned"]
    assert not _search(changed).tried.equals(found.tried)


class _Spy(ClassifierMixin, BaseEstimator):
    """Remembers which snapshots taught and which was judged, told by a feature."""

    seen: ClassVar[list[tuple[set[float], set[float]]]] = []

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> _Spy:
        self.classes_ = np.array([0, 1])
        self.taught_ = set(X["days_since_created"])
        return self

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        self.seen.append((self.taught_, set(X["days_since_created"])))
        return np.full((len(X), 2), 0.5)


def test_a_horizon_lies_between_what_teaches_and_what_judges(frame: pd.DataFrame) -> None:
    days = [(day - FIRST).days for day in frame["snapshot_date"]]
    _Spy.seen.clear()
    found = _search(
        frame.assign(days_since_created=np.array(days, dtype="float64")),
        recipes={"spy": _Spy()},
        settings={"spy": ({"number": 1}, {"number": 2})},
    )
    assert len(_Spy.seen) == 4  # two settings at two origins
    for taught, judged in _Spy.seen:
        assert len(judged) == 1
        assert max(taught) + HORIZON <= min(judged) <= (CUT - FIRST).days - HORIZON
    assert len({min(judged) for _, judged in _Spy.seen}) == 2
    assert found.chosen == {"spy": {"number": 1}}  # the declared one: the other is as good


def test_a_setting_that_learns_nothing_is_not_taken(frame: pd.DataFrame) -> None:
    worse = {"model__learning_rate": 1e-6}
    better = {"model__learning_rate": 0.1}
    found = _search(frame, settings={"hist_gradient_boosting": (worse, better)})
    assert found.chosen == {"hist_gradient_boosting": better}
    first, second = found.tried.to_dict("records")
    assert first["minus_declared"] == 0
    assert second["minus_declared"] < -3 * second["error"] < 0
    assert (first["is_chosen"], second["is_chosen"]) == (False, True)
    recipes = tuned(small_recipes(), found)
    assert recipes["hist_gradient_boosting"][-1].learning_rate == 0.1
    assert recipes["survival"][-1].estimator.max_iter == 30  # untouched


def test_a_setting_that_is_better_by_chance_is_not_taken(frame: pd.DataFrame) -> None:
    tried = tuple({"model__random_state": number} for number in (1, 4))
    found = _search(frame, settings={"hist_gradient_boosting": tried})
    assert found.tried["minus_declared"].min() < 0
    assert found.chosen == {"hist_gradient_boosting": tried[0]}


@pytest.mark.parametrize("served", [True, False])
@pytest.mark.parametrize("judged", [True, False])
def test_only_fits_that_know_the_season_as_those_that_serve_are_asked(
    frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, served: bool, judged: bool
) -> None:
    """What one without the season prefers is not what one prefers that knows it."""

    def sees(model: DiscreteTimeSurvival, X: np.ndarray, y: np.ndarray) -> bool:
        fewest = int((_panel(frame)["snapshot_date"] <= CUT).sum())
        return served if len(X) > fewest else judged

    monkeypatch.setattr(DiscreteTimeSurvival, "sees_a_year", sees)
    found = _search(frame)
    assert ("survival" in found.chosen) == (served == judged)
    assert "hist_gradient_boosting" in found.chosen
    assert found.said("survival") == "not searched" or served == judged


def test_too_few_to_judge_choose_nothing(frame: pd.DataFrame) -> None:
    few = frame[frame["customer_key"] < "2"]
    found = _search(few)
    assert found.chosen == {}
    assert found.tried.empty
    recipes = small_recipes()
    assert tuned(recipes, found) == recipes


def test_a_training_searches_by_what_was_known_at_its_oldest_origin(frame: pd.DataFrame) -> None:
    recipes = {n: small_recipes()[n] for n in ("recency_rule", "hist_gradient_boosting")}
    slow, quick = {"model__learning_rate": 1e-6}, {"model__learning_rate": 0.1}
    tried = {"hist_gradient_boosting": (slow, quick)}

    def attempt(rows: pd.DataFrame) -> TrainingResult:
        found = train(rows, AS_OF, HORIZON, 7, settings=SETTINGS, recipes=recipes, searched=tried)
        assert isinstance(found, TrainingResult)
        return found

    result = attempt(frame)
    assert result.searched is not None
    assert result.searched.said("hist_gradient_boosting") == "learning_rate 0.1"
    assert result.searched.said("recency_rule") == "not searched"
    assert result.chosen == "hist_gradient_boosting"
    assert result.model.estimator_[-1].learning_rate == 0.1  # what serves has them, too
    first_test = result.origins[0].test
    assert max(result.searched.origins) + timedelta(days=HORIZON) <= first_test
    noise = frame.copy()
    late = (noise["matured_date"] > first_test).to_numpy()
    noise.loc[late, "is_churned"] = np.random.default_rng(1).integers(0, 2, int(late.sum()))
    again = attempt(noise)
    assert again.searched is not None
    pd.testing.assert_frame_equal(result.searched.tried, again.searched.tried)
