"""Boosting by leaf sets gives the very digits of scikit-learn's own walk down the trees."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

from ml.boosting import BoostingClassifier, BoostingRegressor, LeafSets, leaf_sets

# On, between and beyond the thresholds: counts with ties, both zeros, what is missing or infinite.
VALUES = [-np.inf, -2.0, -1.0, -0.5, -0.0, 0.0, 1.0, 1.5, 3.0, np.inf, np.nan]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):  # two threads wait for each other where tests run side by side
        yield


def _sample(rng: np.random.Generator, rows: int, columns: int = 6) -> np.ndarray:
    X = rng.choice(VALUES, size=(rows, columns))
    X[:, 0] = rng.normal(size=rows)
    X[:, -1] = 1.0  # never split on
    return X


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    leaves=st.sampled_from([2, 5, 8, 9, 16, 17, 31, 64, 65, None]),
    rows=st.sampled_from([20, 300, 1500]),
    is_classifier=st.booleans(),
)
def test_digits_are_those_of_the_walk(
    seed: int, leaves: int | None, rows: int, is_classifier: bool
) -> None:
    rng = np.random.default_rng(seed)
    X = _sample(rng, rows)
    y = np.nan_to_num(X[:, 0]) + (X[:, 1] > 0) + rng.normal(size=rows)
    asked = {
        "max_iter": 7,
        "max_leaf_nodes": leaves,
        "min_samples_leaf": 3,
        "early_stopping": False,
        "random_state": 0,
    }
    if is_classifier:
        y = (y > np.median(y)).astype(int)
        walking = HistGradientBoostingClassifier(**asked).fit(X, y)
        looking = BoostingClassifier(**asked).fit(X, y)
        assert np.array_equal(walking.predict_proba(X), looking.predict_proba(X))
    else:
        walking = HistGradientBoostingRegressor(**asked).fit(X, y)
        looking = BoostingRegressor(**asked).fit(X, y)
        assert np.array_equal(walking.predict(X), looking.predict(X))
    unseen = _sample(rng, 1100)  # more than one batch
    for batch in (unseen, unseen[:1], np.asfortranarray(unseen)):
        assert np.array_equal(walking._raw_predict(batch), looking._raw_predict(batch))
    is_small = leaves is not None and leaves <= 64
    assert (leaf_sets(looking) is not None) == (
        is_small or max(t.get_n_leaf_nodes() for (t,) in looking._predictors) <= 64
    )


def test_trees_without_a_split() -> None:
    X, y = np.ones((40, 2)), np.arange(40.0)
    model = BoostingRegressor(max_iter=3).fit(X, y)
    sets = leaf_sets(model)
    assert sets is not None
    assert not sets.columns
    assert (
        model.predict(X).tolist()
        == HistGradientBoostingRegressor(max_iter=3).fit(X, y).predict(X).tolist()
    )


def test_what_cannot_be_looked_up_is_walked() -> None:
    rng = np.random.default_rng(3)
    X = np.column_stack([rng.integers(0, 5, 400), rng.normal(size=400)]).astype(float)
    three = rng.integers(0, 3, 400)
    asked = {"max_iter": 4, "random_state": 0}
    for y, categorical in ((three, None), ((X[:, 0] % 2).astype(int), [0])):
        walking = HistGradientBoostingClassifier(categorical_features=categorical, **asked)
        looking = BoostingClassifier(categorical_features=categorical, **asked).fit(X, y)
        assert leaf_sets(looking) is None
        assert np.array_equal(walking.fit(X, y).predict_proba(X), looking.predict_proba(X))


def test_a_new_fit_forgets_the_old_trees() -> None:
    rng = np.random.default_rng(5)
    X = rng.normal(size=(300, 3))
    model = BoostingRegressor(max_iter=5, random_state=0)
    first = model.fit(X, X[:, 0]).predict(X)
    second = model.fit(X, -X[:, 0]).predict(X)
    fresh = clone(model).fit(X, -X[:, 0]).predict(X)
    assert not np.array_equal(first, second)
    assert np.array_equal(second, fresh)
    grown = model.set_params(warm_start=True, max_iter=9).fit(X, -X[:, 0]).predict(X)
    assert np.array_equal(
        grown, clone(model).set_params(warm_start=False).fit(X, -X[:, 0]).predict(X)
    )


def test_stored_and_shared_between_threads() -> None:
    rng = np.random.default_rng(7)
    X = rng.normal(size=(3000, 4))
    model = BoostingClassifier(max_iter=20, random_state=0).fit(X, X[:, 0] > 0)
    expected = model.predict_proba(X)
    again = pickle.loads(pickle.dumps(model))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: again.predict_proba(X), range(8)):
            assert np.array_equal(found, expected)


def test_a_wrong_table_would_be_seen() -> None:
    """The comparison can fail: one interval more, and digits differ."""
    rng = np.random.default_rng(9)
    X = rng.choice([0.0, 1.0, 2.0, 3.0], size=(500, 3))
    model = BoostingRegressor(max_iter=5, random_state=0).fit(X, X.sum(axis=1))
    sets = leaf_sets(model)
    assert sets is not None
    moved = LeafSets(
        sets.baseline,
        {column: (at - 1.0, table) for column, (at, table) in sets.columns.items()},
        sets.values,
        sets.everything,
    )
    assert np.array_equal(sets.predict(X), model.predict(X))
    assert not np.array_equal(moved.predict(X), model.predict(X))


# scikit-learn asks of a regressor that it learns: 3 trees do not.
@parametrize_with_checks([BoostingClassifier(max_iter=3), BoostingRegressor(max_iter=20)])
def test_estimator_checks(estimator: object, check: Callable[[object], None]) -> None:
    check(estimator)
