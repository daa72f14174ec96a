"""Reasons name what raises this customer's risk, in words filled from the customer's own values."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from training_world import fitted, training_frame

from ml.estimators import sigmoid
from ml.features import FEATURES, INPUTS, NULLABLE
from ml.reasons import (
    GROUPS,
    NO_FURTHER_REASON,
    NO_REASON,
    PASSED_OVER,
    PERSONAL,
    contributions,
    groups_of,
    is_passed_over,
    reasons,
)

TYPICAL = dict.fromkeys(FEATURES, 1.0) | {
    "days_since_last_order": 20.0,
    "gap_median_days": 23.0,
    "revenue_amount_365d": 310.0,
}


class _Linear:
    """Log-odds that are a weighted sum: contributions are then known exactly."""

    def __init__(self, **weights: float) -> None:
        self.weights = weights

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        p = sigmoid(X[list(self.weights)].fillna(0).to_numpy() @ list(self.weights.values()))
        return np.column_stack([1 - p, p])


def _customers(*changes: dict[str, float]) -> pd.DataFrame:
    rows = [TYPICAL | change for change in changes]
    frame = pd.DataFrame(rows, columns=list(FEATURES), dtype="float64")
    keys = [f"{i:032x}" for i in range(len(frame))]
    return frame.assign(customer_key=keys, snapshot_date=date(2025, 6, 30))


REFERENCE = _customers({})


def test_groups_hold_every_feature_once() -> None:
    assert Counter(f for group in GROUPS for f in group.features) == Counter(FEATURES)
    assert len({group.name for group in GROUPS}) == len(GROUPS)


def test_contributions_of_a_linear_model_are_exact() -> None:
    model = _Linear(days_since_last_order=0.02, open_ticket_count=0.5, revenue_amount_365d=-0.001)
    customers = _customers(
        {"days_since_last_order": 74.0, "open_ticket_count": 3.0, "revenue_amount_365d": 110.0}, {}
    )
    found = contributions(model, customers, REFERENCE).set_index("customer_key")
    first = found.iloc[0]
    assert first["silence"] == pytest.approx(54 * 0.02)
    assert first["service"] == pytest.approx(2 * 0.5)
    assert first["spend"] == pytest.approx(0.2)
    assert first.drop(["silence", "service", "spend"]).eq(0).all()
    assert found.iloc[1].eq(0).all()  # the typical customer has no reasons


def test_a_protected_attribute_counts_where_it_is_an_input_and_its_value_is_never_told() -> None:
    """Audiences choose by reasons: a value in one would let a campaign choose by gender or age."""
    model = _Linear(open_ticket_count=0.5, age_years=-0.05, country_DE=1.5)
    people = _customers({"open_ticket_count": 3.0}, {}, {}).assign(
        birth_year=[2000, 1960, None], country=["DE", "DE", "AT"]
    )
    reference = _customers({}).assign(birth_year=1975, country="AT")
    inputs = (*INPUTS, "age_years", "country_DE")
    told = reasons(model, people, reference, inputs=inputs)
    assert told.iloc[0, 1:3].tolist() == [PERSONAL, "waits for an answer to 3 service tickets"]
    person = groups_of(inputs)[-1]
    values = ([25.0, 1.0], [65.0, 0.0], [np.nan, 0.0], [34.0, 1.0])
    customers = [dict(zip(person.features, own, strict=True)) for own in values]
    assert {person.phrase(customer, customers[0]) for customer in customers} == {PERSONAL}
    assert not told.iloc[:, 1:].stack().str.contains("years|country|DE|AT|25|65").any()
    unknown = people.assign(birth_year=None, country=None)
    quiet = reasons(model, unknown, unknown, inputs=inputs)
    assert not quiet.iloc[:, 1:].isin([PERSONAL]).any(axis=None)  # nobody differs from the typical
    assert [group.name for group in groups_of(INPUTS)] == [group.name for group in GROUPS]


def test_reasons_are_ordered_and_filled_from_the_customers_values() -> None:
    model = _Linear(days_since_last_order=0.02, open_ticket_count=0.5, revenue_amount_365d=-0.001)
    customers = _customers(
        {"days_since_last_order": 74.0, "open_ticket_count": 3.0, "revenue_amount_365d": 110.0},
        {"days_since_last_order": 31.0, "gap_median_days": np.nan},
        {"days_since_last_order": 1.0},
    )
    told = reasons(model, customers, REFERENCE)
    assert told.iloc[0, 1:].tolist() == [
        "has not ordered for 74 days, usually orders every 23",
        "waits for an answer to 3 service tickets",
        "spent 110 in the last year, the typical customer 310",
    ]
    assert told.iloc[1, 1:].tolist() == [
        "has not ordered for 31 days",
        NO_FURTHER_REASON,
        NO_FURTHER_REASON,
    ]
    # what lowers risk is no reason
    assert told.iloc[2, 1:].tolist() == [NO_REASON, NO_FURTHER_REASON, NO_FURTHER_REASON]


def test_customers_at_low_risk_are_not_asked_about() -> None:
    model = _Linear(days_since_last_order=0.02, order_count_365d=-50.0)
    customers = _customers({"days_since_last_order": 74.0, "order_count_365d": 60.0}, {})
    told = reasons(model, customers, REFERENCE)
    assert model.predict_proba(customers)[0, 1] < 1 / 3
    assert told.iloc[0, 1] == NO_REASON


def test_every_group_has_words_for_every_kind_of_value() -> None:
    """Zeros, ones, many, and missing wherever a value may be missing."""
    for fill in (0.0, 1.0, 2.0, 0.5, 40.0):
        customer = dict.fromkeys(FEATURES, fill)
        for values in (customer, customer | dict.fromkeys(NULLABLE, np.nan)):
            for group in GROUPS:
                phrase = group.phrase(values, TYPICAL)
                assert phrase
                assert "nan" not in phrase.split()
                assert "1 days" not in f" {phrase}".replace("21 days", "")


def test_no_phrase_speaks_of_a_protected_attribute() -> None:
    words = " ".join(group.phrase(TYPICAL, TYPICAL) for group in GROUPS).lower().split()
    assert not {"age", "gender", "woman", "man", "country", "occupation", "old"} & set(words)


def test_a_real_model_is_explained_the_same_in_any_order() -> None:
    frame = training_frame(customers=300, snapshots=3)
    model = fitted("hist_gradient_boosting", frame)
    day = frame[frame["snapshot_date"] == frame["snapshot_date"].max()]
    told = reasons(model, day, day)
    pd.testing.assert_frame_equal(told, reasons(model, day.sample(frac=1, random_state=2), day))
    assert told.notna().all().all()
    # two features carry the risk of this world; they are what the riskiest are told
    risky = np.argsort(-model.predict_proba(day)[:, 1])[:20]
    main = told.set_index("customer_key").loc[day["customer_key"].iloc[risky], "reason_1"]
    assert main.str.startswith(("has not ordered for", "was last seen")).mean() >= 0.9


@pytest.mark.parametrize("recipe", ["hist_gradient_boosting", "survival"])
def test_a_day_on_which_nothing_happens_changes_few_reasons(recipe: str) -> None:
    """Everybody is silent for one day longer: nearly all are told the same three things."""
    frame = training_frame(customers=300, snapshots=3)
    model = fitted(recipe, frame)
    day = frame[frame["snapshot_date"] == frame["snapshot_date"].max()]
    older = {
        name: day[name] + 1
        for name in ("days_since_last_order", "days_since_last_event", "days_since_first_order")
    }
    after = day.assign(**older, snapshot_date=day["snapshot_date"].iloc[0] + timedelta(days=1))

    def told(rows: pd.DataFrame) -> list[set[str]]:
        effects = contributions(model, rows, rows).drop(columns="customer_key")
        order = np.argsort(-effects.to_numpy(), axis=1, kind="stable")[:, :3]
        return [
            {effects.columns[g] for g in own if effects.iat[i, g] >= 0.02}
            for i, own in enumerate(order)
        ]

    before, then = told(day), told(after)
    asked = [i for i, own in enumerate(before) if own and then[i]]
    assert len(asked) > 50
    shared = [len(before[i] & then[i]) / len(before[i] | then[i]) for i in asked]
    assert np.mean(shared) > 0.85


def test_an_empty_day_has_no_reasons() -> None:
    told = reasons(_Linear(days_since_last_order=1), REFERENCE.iloc[:0], REFERENCE)
    assert told.columns.tolist() == ["customer_key", "reason_1", "reason_2", "reason_3"]
    assert len(told) == 0


def test_who_is_passed_over_changes_nothing_for_the_others() -> None:
    model = _Linear(days_since_last_order=0.02, open_ticket_count=0.5)
    silent = {"days_since_last_order": 200.0}
    customers = _customers(silent, silent | {"open_ticket_count": 4.0}, {}, silent)
    passed_over = pd.Series([False, True, False, True], index=customers["customer_key"])
    everybody = reasons(model, customers, REFERENCE)
    found = reasons(model, customers, REFERENCE, passed_over)
    pd.testing.assert_frame_equal(found[::2], everybody[::2])
    assert (found.loc[[1, 3], ["reason_1", "reason_2", "reason_3"]] == PASSED_OVER).all(axis=None)


def test_passed_over_are_neither_the_riskiest_nor_those_with_most_at_stake() -> None:
    scores = pd.DataFrame(
        {
            "customer_key": list("abcdefg"),
            "risk_band": ["high", "high", "medium", "medium", "medium", "low", "low"],
            "churn_decile": [1, 2, 3, 4, 5, 9, 10],
            "margin_at_risk_amount": [1.0, 0.0, 5.0, 80.0, 80.0, 900.0, 0.0],
        }
    )
    told = {"a", "d", "f", "g"}  # of two with as much at stake the first by key
    for order in ([0, 1, 2, 3, 4, 5, 6], [6, 4, 2, 0, 5, 3, 1]):
        shuffled = scores.iloc[order]
        passed = is_passed_over(shuffled, most_at_stake=1)
        assert set(shuffled.loc[~passed, "customer_key"]) == told
