"""What campaigns teach, in a shop: the policy while one runs, scores once one has ended."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from tiny_shop import (
    CAMPAIGN_ID,
    EMPTY,
    ENROLLED,
    FIRST,
    LAST_RUN,
    SHOP,
    Enrolled,
    platform,
    run_assets,
    told,
)

from ml.campaigns.assignment import uniforms
from ml.targeting import Constraints
from ml.uplift import comparison, training
from orchestration.defs.uplift import assets
from orchestration.defs.uplift.contacts import plan
from orchestration.resources.models import uplift_model
from orchestration.tables import (
    CAMPAIGN_ASSIGNMENTS,
    OFFER_POLICY,
    UPLIFT_SCORES,
    mart_tables,
)

if TYPE_CHECKING:
    from orchestration.resources.home import Home

WINDOW_END = ENROLLED + timedelta(days=3)
SETTLED = WINDOW_END + timedelta(days=1)


def test_the_policy_waits_for_closed_windows(enrolled: Enrolled) -> None:
    lake = enrolled.read.lake
    for day in SHOP.days(ENROLLED, LAST_RUN):
        policy = lake.read_frame(OFFER_POLICY, [day])
        if day > WINDOW_END:
            assert policy.empty
            assert (
                told(enrolled.home, "offer_policy", day)["reason"] == f"no campaign runs on {day}"
            )
            continue
        assert set(policy["campaign_id"]) == {CAMPAIGN_ID}
        assert set(policy["segment"]) > {"all", "Champions"}
        sums = policy.groupby("segment")["propensity"].sum().to_numpy()
        assert sums == pytest.approx(1, abs=1e-9)
        everybody = policy[policy["segment"] == "all"].set_index("arm")
        if day < WINDOW_END:  # nobody's window has closed: the file's own weights
            assert (policy["customer_count"] == 0).all()
            assert everybody.loc["control", "propensity"] == pytest.approx(0.3)
            assert "closed windows" in everybody.loc["control", "reason"]
        else:
            ledger = lake.read_frame(CAMPAIGN_ASSIGNMENTS)
            own = ledger[ledger["campaign_id"] == CAMPAIGN_ID]["arm"].value_counts()
            assert everybody["customer_count"].to_dict() == own.to_dict()
            enough = own.min() >= 100
            assert everybody["best_probability"].notna().all() == enough


def test_an_ended_campaign_that_is_too_small_teaches_nothing(enrolled: Enrolled) -> None:
    lake = enrolled.read.lake
    for day in SHOP.days(ENROLLED, LAST_RUN):
        assert lake.publication(UPLIFT_SCORES, day) is not None
        assert lake.read_frame(UPLIFT_SCORES, [day]).empty
    assert "has ended and settled" in str(told(enrolled.home, "uplift_scores", FIRST)["reason"])
    reason = told(enrolled.home, "uplift_scores", EMPTY)[f"{CAMPAIGN_ID} coupon reason"]
    assert "500 are needed" in str(reason)


def test_a_promoted_learner_scores_the_population(
    copy: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three days of a hundred customers teach nothing: outcomes are drawn, the decision decreed."""
    monkeypatch.setattr(training, "MIN_UNITS_PER_ARM", 20)
    monkeypatch.setattr(training, "MIN_RESPONSES_PER_ARM", 5)
    monkeypatch.setattr(
        assets,
        "closed_units",
        lambda run, campaign, own, as_of: own.assign(
            outcome=(uniforms("outcome", own["customer_key"]) < 0.5).astype(float),
            profit=uniforms("profit", own["customer_key"]),
        ),
    )
    assert run_assets(copy, ["uplift_scores"], EMPTY).success
    lake = platform(copy).lake
    metadata = told(copy, "uplift_scores", EMPTY)
    honest = metadata.get(f"{CAMPAIGN_ID} coupon reason")
    assert metadata[f"{CAMPAIGN_ID} coupon promoted"] == 0
    assert "nothing beats" in str(honest)
    assert "| response_model |" in str(metadata[f"{CAMPAIGN_ID} coupon comparison"])
    assert lake.read_frame(UPLIFT_SCORES, [EMPTY]).empty
    models = platform(copy).models
    assert plan(copy, Constraints())[1] is None, "nothing is promoted: there is nothing to plan"
    kept = models.uplift(CAMPAIGN_ID, "coupon")
    assert kept is not None
    assert not kept.is_promoted
    assert kept.of_profit is not None
    assert "| everybody |" in kept.table.split("profit per customer")[1]
    with monkeypatch.context() as later:
        later.setattr("orchestration.resources.models.UPLIFT_LESSON", 10**6)
        assert models.uplift(CAMPAIGN_ID, "coupon") is None, "learnt in another way: learn again"

    # another version, promoted by decree
    learned = training.Learned(
        comparison.Comparison(
            "Qini",
            (comparison.Entry(kept.ref.recipe, False, 0.1, {}),),
            "response_model",
            {kept.ref.recipe: comparison.Interval(0.1, 0.05, 0.15)},
            400,
        ),
        comparison.Comparison(
            "profit per customer",
            (comparison.Entry(kept.ref.recipe, False, 0.1, {}),),
            "everybody",
            {kept.ref.recipe: comparison.Interval(0.1, 0.05, 0.15)},
            400,
        ),
        models.load(kept.ref),
        models.load(kept.of_profit),
        {},
    )
    models.register_uplift(CAMPAIGN_ID, "coupon", learned, SETTLED, {})
    assert run_assets(copy, ["uplift_scores"], EMPTY).success
    scores = lake.read_frame(UPLIFT_SCORES, [EMPTY])
    features = lake.read_frame(mart_tables()["customer_features"], [EMPTY])
    assert set(scores["customer_key"]) == set(features["customer_key"])
    assert sorted(scores["uplift_rank"]) == list(range(1, len(features) + 1))
    assert np.isfinite(scores["expected_effect"]).all()
    assert np.isfinite(scores["expected_profit_amount"].astype(float)).all()
    assert set(scores["learned_until_date"]) == {SETTLED}
    assert set(scores["model_version"]) == {"2"}
    # the plan of that day: its eligible customers, this offer, the limits and the random slice
    text, path = plan(copy, Constraints(budget=3.0, exploration_share=0.2))
    assert path is not None
    chosen = pd.read_csv(path)
    assert set(chosen["offer"]) <= {"none", f"{CAMPAIGN_ID}:coupon"}
    assert chosen["cost_amount"].sum() <= 3.0 + 1e-9
    assert 0 < chosen["is_random"].mean() < 0.4
    assert len(chosen) < len(features), "who may not be contacted is not in it"
    assert "| budget | 3.00 |" in text
    before = lake.publication(UPLIFT_SCORES, EMPTY)
    assert run_assets(copy, ["uplift_scores"], EMPTY).success
    assert lake.publication(UPLIFT_SCORES, EMPTY).content_hash == before.content_hash  # type: ignore[union-attr]
    # a day before the end knows nothing of it
    assert run_assets(copy, ["uplift_scores"], FIRST).success
    assert lake.read_frame(UPLIFT_SCORES, [FIRST]).empty
    assert uplift_model(CAMPAIGN_ID, "coupon") == f"uplift_{CAMPAIGN_ID}_coupon"
