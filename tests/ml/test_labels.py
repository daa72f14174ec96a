"""Agreement of the two churn rules."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from ml.labels import ANSWERS, agreement


def labels(*pairs: tuple[int | None, int | None]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["is_churned", "is_churned_personal"], dtype="Int64")


def test_kappa_of_the_textbook() -> None:
    """20 and 15 agree, 5 and 10 do not: 70 % where chance brings 50 %, so 0.4."""
    found = agreement(labels(*[(1, 1)] * 20, *[(1, 0)] * 5, *[(0, 1)] * 10, *[(0, 0)] * 15))
    assert found.agreement_share == 0.7
    assert found.cohen_kappa == pytest.approx(0.4, abs=1e-15)
    assert found.label_count == found.compared_count == 50


def test_labels_that_have_not_matured_are_counted_and_not_compared() -> None:
    found = agreement(labels((1, 1), (0, 0), (0, None), (0, None), (1, None)))
    assert found.counts[0, None] == 2
    assert found.counts[1, None] == 1
    assert (found.compared_count, found.label_count) == (2, 5)
    assert found.agreement_share == 1
    assert found.cohen_kappa == 1


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from([0, 1])), min_size=2))
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    found = agreement(labels(*pairs))
    if found.cohen_kappa is None:  # one answer for everybody from both rules
        assert len(set(pairs)) == 1
        assert pairs[0][0] == pairs[0][1]
        return
    expected = cohen_kappa_score(*zip(*pairs, strict=True))
    assert found.cohen_kappa == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from(ANSWERS))))
def test_every_label_is_counted_once(pairs: list[tuple[int, int | None]]) -> None:
    found = agreement(labels(*pairs))
    assert all(found.counts[pair] == pairs.count(pair) for pair in found.counts)
    assert found.label_count == len(pairs)


@pytest.mark.parametrize("kind", ["float64", "object"])
def test_the_types_that_readers_bring(kind: str) -> None:
    frame = labels((1, 1), (0, 1)).astype(kind)
    frame["is_churned_personal"] = [1, np.nan if kind == "float64" else None]
    assert agreement(frame).counts[0, None] == 1


def test_without_labels_nothing_is_claimed() -> None:
    found = agreement(labels())
    assert found.agreement_share is None
    assert found.cohen_kappa is None
    assert "unknown" in found.to_markdown()
    assert agreement(labels((0, None))).agreement_share is None


def test_what_is_no_label_is_refused() -> None:
    with pytest.raises(ValueError, match="0, 1 or null"):
        agreement(labels((2, 1)))


def test_the_table_that_people_see() -> None:
    text = agreement(labels(*[(0, 0)] * 1200, (0, 1), (1, 1), (1, None))).to_markdown()
    assert text.splitlines() == [
        "| horizon | own: stayed | own: churned | own: not matured |",
        "| --- | ---: | ---: | ---: |",
        "| stayed | 1,200 | 1 | 0 |",
        "| churned | 0 | 1 | 1 |",
        "",
        "agreement 99.9%, Cohen's kappa 0.666, 1,202 of 1,203 labels compared",
    ]
