"""K-means segments: the rule for k, names, and meaning that survives days and refits."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from ml import clustering
from ml.clustering import (
    MIN_SHARE,
    SKOPS_TRUSTED_TYPES,
    SegmentModel,
    _choose,
    assign,
    fit_segments,
)

CENTRES = {"loyal": (10, 12, 900.0, 30), "occasional": (80, 2, 60.0, 4), "gone": (600, 0, 0.0, 1)}


def _status(
    n: int = 900, seed: int = 1, kinds: dict[str, tuple[float, ...]] | None = None
) -> pd.DataFrame:
    """Customers around a few centres of (days, orders, revenue, lifetime orders)."""
    rng = np.random.default_rng(seed)
    centres = list((kinds or CENTRES).values())
    which = np.arange(n) % len(centres)
    values = np.array([centres[i] for i in which]) * rng.lognormal(0, 0.15, (n, 4))
    frame = pd.DataFrame(values.round(2), columns=list(clustering.COLUMNS))
    frame["customer_key"] = [f"{(i * 2654435761) % 2**32:032x}" for i in range(n)]
    frame["kind"] = [list(kinds or CENTRES)[i] for i in which]
    frame["lifecycle"] = np.where(frame["order_count_365d"] > 0, "active", "dormant")
    return frame


@pytest.fixture(scope="module")
def model() -> SegmentModel:
    return fit_segments(_status(), seed=7)


def _name_of(model: SegmentModel, status: pd.DataFrame) -> dict[str, str]:
    """The name under which most customers of a kind go."""
    merged = assign(model, status).merge(status[["customer_key", "kind"]], on="customer_key")
    return {
        str(kind): str(group.mode()[0]) for kind, group in merged.groupby("kind")["cluster_name"]
    }


def test_the_kinds_are_found_and_named_in_words(model: SegmentModel) -> None:
    assert model.metadata["k"] == 3
    names = _name_of(model, _status())
    assert names["loyal"] == "recent frequent high spenders"
    assert names["gone"] == "lapsed one-time buyers"
    assert len(set(names.values())) == 3
    best = next(c for c in model.metadata["clusters"] if c["name"] == names["loyal"])
    assert best["id"] == 1, "the first fit numbers clusters from the one that spends most"


def test_the_same_input_gives_the_same_model_in_any_order(model: SegmentModel) -> None:
    again = fit_segments(_status().sample(frac=1, random_state=5), seed=7)
    assert again.metadata == model.metadata
    assert again.version == model.version
    assert json.loads(json.dumps(model.metadata)) == model.metadata


def test_other_thread_counts_give_the_same_centroids(model: SegmentModel) -> None:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=2):
        assert fit_segments(_status(), seed=7).metadata == model.metadata


def test_the_estimator_survives_skops_without_any_extra_trust(model: SegmentModel) -> None:
    import skops.io

    blob = skops.io.dumps(model.estimator)
    assert skops.io.get_untrusted_types(data=blob) == list(SKOPS_TRUSTED_TYPES)
    loaded = skops.io.loads(blob, trusted=list(SKOPS_TRUSTED_TYPES))
    metadata = json.loads(json.dumps(model.metadata))
    status = _status(seed=4)
    pd.testing.assert_frame_equal(
        assign(SegmentModel(loaded, metadata), status), assign(model, status)
    )


def test_a_customer_keeps_the_cluster_whoever_else_is_there(model: SegmentModel) -> None:
    whole = assign(model, _status(seed=2))
    part = assign(model, _status(seed=2).iloc[100:150])
    merged = part.merge(whole, on="customer_key")
    assert (merged["cluster_id_x"] == merged["cluster_id_y"]).all()


def test_a_refit_keeps_ids_and_names(model: SegmentModel) -> None:
    before = _name_of(model, _status())
    for seed in (8, 9, 10):
        refit = fit_segments(_status(seed=seed), seed=seed, previous=model)
        assert _name_of(refit, _status()) == before
        assert {c["id"] for c in refit.metadata["clusters"]} == {1, 2, 3}
        assert refit.metadata["previous_version"] == model.version


def test_a_new_kind_of_customer_gets_a_new_id_and_an_old_id_is_never_given_twice(
    model: SegmentModel,
) -> None:
    kinds: dict[str, tuple[float, ...]] = {**CENTRES, "whales": (2.0, 90.0, 90_000.0, 400.0)}
    del kinds["occasional"]
    refit = fit_segments(_status(kinds=kinds), seed=7, previous=model)
    names, before = _name_of(refit, _status(kinds=kinds)), _name_of(model, _status())
    assert names["loyal"] == before["loyal"]
    assert names["gone"] == before["gone"]
    assert names["whales"] not in before.values()
    third = fit_segments(_status(), seed=7, previous=refit)
    by_name = {c["name"]: c["id"] for c in third.metadata["clusters"]}
    assert by_name[before["loyal"]] == 1
    ids = [c["id"] for m in (model, refit) for c in m.metadata["clusters"]]
    fresh = set(by_name.values()) - {c["id"] for c in refit.metadata["clusters"]}
    assert fresh.isdisjoint(ids)


def test_no_cluster_is_under_one_per_cent() -> None:
    status = _status(2_000)
    # Five customers far from all others: a cluster of their own would be 0.25 %.
    status.loc[:4, ["order_count_365d", "revenue_amount_365d"]] = [5_000, 5_000_000.0]
    fitted = fit_segments(status, seed=7)
    assert all(cluster["share"] >= MIN_SHARE for cluster in fitted.metadata["clusters"])
    share = assign(fitted, status)["cluster_name"].value_counts(normalize=True)
    assert share.min() >= MIN_SHARE


def _row(
    k: int, silhouette: float | None, stability: float | None = 0.9, share: float = 0.1
) -> dict:
    return {"k": k, "silhouette": silhouette, "stability": stability, "smallest_share": share}


def test_the_rule_for_k() -> None:
    two = [_row(1, None), _row(2, None)]
    assert _choose([*two, _row(3, 0.5), _row(4, 0.46), _row(5, 0.4)], None) == 4
    assert _choose([*two, _row(3, 0.5), _row(4, 0.46), _row(5, 0.4)], 3) == 3
    assert _choose([*two, _row(3, 0.5), _row(4, 0.46), _row(5, 0.4)], 5) == 4
    assert _choose([*two, _row(3, 0.4), _row(4, 0.6, stability=0.3)], None) == 3
    assert _choose([*two, _row(3, 0.4, stability=0.2), _row(4, 0.6, stability=None)], None) == 4
    assert _choose([*two, _row(3, None, share=0.001)], None) == 2
    assert _choose([_row(1, None, share=1.0), _row(2, None, share=0.001)], None) == 1


def test_small_shops(model: SegmentModel) -> None:
    one = fit_segments(_status(1), seed=1)
    assert one.metadata["k"] == 1
    few = _status(4)
    assert assign(fit_segments(few, seed=1), few)["cluster_name"].notna().all()
    twins = pd.concat([_status(3)] * 30).assign(customer_key=[f"{i:032x}" for i in range(90)])
    assert fit_segments(twins, seed=1).metadata["k"] == 3
    prospects = _status(5).assign(lifecycle="prospect", days_since_last_order=None)
    assert assign(model, prospects)[["cluster_id", "cluster_name"]].isna().all().all()
    with pytest.raises(ValueError, match="no customer has bought"):
        fit_segments(prospects, seed=1)


def test_missing_values_are_refused_and_named() -> None:
    status = _status()
    status.loc[3, "revenue_amount_365d"] = np.nan
    with pytest.raises(ValueError, match="revenue_amount_365d"):
        fit_segments(status, seed=1)
