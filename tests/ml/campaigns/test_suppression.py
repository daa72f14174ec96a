"""The suppression list: read strictly, since a list that is misread lets somebody through."""

from __future__ import annotations

from datetime import date

import pytest

from ml.campaigns.addresses import hashed, normalise
from ml.campaigns.definition import CampaignError
from ml.campaigns.suppression import parse_suppression

DAY = date(2025, 5, 1)


def test_rows_hold_on_their_days() -> None:
    rows = parse_suppression(
        "customer_id,email,since,until,reason\r\n"
        "C1,,,,asked by phone\r\n"
        ",ada@shop.test,2025-05-01,2025-05-02,\r\n"
        "\r\n"
        "C2,,2025-05-02,,\r\n",
        "suppression.csv",
    )
    on = {day: [r.value for r in rows if r.holds_on(date(2025, 5, day))] for day in (1, 2, 3)}
    assert on == {1: ["C1", "ada@shop.test"], 2: ["C1", "ada@shop.test", "C2"], 3: ["C1", "C2"]}
    assert "ada" not in repr(rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ":1: nobody is named"),
        ("since\n2025-05-01\n", ":1: nobody is named"),
        ("custmer_id\nC1\n", ":1: unknown column 'custmer_id'"),
        ("customer_id,email\nC1,ada@shop.test\n", ":2: a row names one of"),
        ("customer_id,until\n,2025-05-01\n", ":2: a row names one of"),
        ("customer_id\nC1\nC2,C3\n", ":3: a row names one of"),
        ("customer_id,until\nC1,1.5.2025\n", ":2: until: '1.5.2025' is no day"),
        ("customer_id,since,until\nC1,2025-05-02,2025-05-01\n", ":2: until: 2025-05-01 lies"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(CampaignError) as caught:
        parse_suppression(text, "suppression.csv")
    assert f"suppression.csv{words}" in str(caught.value)


def test_two_spellings_are_one_address() -> None:
    assert normalise("email", " Ada@Shop.TEST\n") == normalise("email", "ada@shop.test")
    assert normalise("phone", "0049 (30) 12-34") == normalise("phone", "+49 30 1234") == "+49301234"
    assert normalise("phone", "030 1234") == "0301234"
    assert normalise("phone", "+") == normalise("email", "  ") == ""


def test_hashes_are_those_that_advertisers_make() -> None:
    # SHA-256 of "test@example.com", as their help pages show it.
    assert hashed("email", "Test@Example.com ") == (
        "973dfe463ec85785f5f95af5ba3906eedb2d931c24e69824a89ea65dba4e813b"
    )
    assert hashed("phone", "030 1234") == hashed("email", "") == ""
