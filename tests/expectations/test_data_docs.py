"""The site: pages that open without a network, bounded, built by several processes."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from good_frames import DAY, declared_tables, good

from expectations.audit import audit
from expectations.docs import DocsSite

TABLE = declared_tables()["churn_scores"]


def bad() -> pa.Table:
    batch = good("churn_scores")
    i = batch.column_names.index("churn_probability")
    values = [float("nan"), *batch.column(i).to_pylist()[1:]]
    return batch.set_column(i, "churn_probability", pa.array(values))


class Balanced(HTMLParser):
    """Checks that elements are closed in the order in which they were opened."""

    VOID = ("meta", "link", "br", "img", "hr", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_site_shows_verdicts_and_reasons(tmp_path: Path) -> None:
    site = DocsSite(tmp_path)
    passed = audit(good("churn_scores"), TABLE, DAY, docs=site)
    failed = audit(bad(), TABLE, DAY, docs=site)
    index = site.build()
    assert index == tmp_path / "index.html"
    assert passed.page
    assert failed.page
    assert passed.page != failed.page
    text = index.read_text()
    assert text.index(failed.page) < text.index(passed.page), "the latest comes first"
    page = (tmp_path / failed.page).read_text()
    assert "finite" in page
    assert "churn_probability: 1 of 120 rows" in page
    assert f"{failed.evaluated} of {failed.expected} expectations evaluated" in page
    for reason in ("1 to n without gap or tie", "Every row: churn_rank ="):
        assert reason in page


@pytest.mark.parametrize("batch", [good("churn_scores"), bad(), bad().drop_columns(["reason_1"])])
def test_pages_are_whole_and_load_nothing(tmp_path: Path, batch: pa.Table) -> None:
    site = DocsSite(tmp_path)
    audit(batch, TABLE, DAY, docs=site)
    site.build()
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) == 2
    for page in pages:
        text = page.read_text()
        parser = Balanced()
        parser.feed(text)
        assert parser.open == []
        assert not re.search(r"<script|<link|<img|https?://", text)
        for target in re.findall(r'href="([^"#]+)"', text):
            assert (page.parent / target).is_file(), target


def test_same_outcome_has_one_page_and_the_oldest_go(tmp_path: Path) -> None:
    site = DocsSite(tmp_path, keep=3)
    for shift in (0, 0, 1, 2, 3):
        day = DAY + datetime.timedelta(days=shift)
        result = audit(good("churn_scores"), TABLE, day, docs=site)
        assert result.page
        site.build()
    pages = sorted(path.name[:10] for path in (tmp_path / "validations").rglob("*.html"))
    assert pages == ["2024-03-02", "2024-03-03", "2024-03-04"]
    listed = json.loads((tmp_path / "validations.json").read_text())
    assert [entry["partition"] for entry in listed] == pages


def test_two_sites_in_one_folder_keep_both_their_pages(tmp_path: Path) -> None:
    first, second = DocsSite(tmp_path), DocsSite(tmp_path)
    one = audit(good("churn_scores"), TABLE, DAY, docs=first)
    two = audit(bad(), TABLE, DAY, docs=second)
    first.build()
    second.build()
    text = (tmp_path / "index.html").read_text()
    assert one.page
    assert two.page
    assert one.page in text
    assert two.page in text


def test_site_survives_a_damaged_list(tmp_path: Path) -> None:
    (tmp_path / "validations.json").write_text("{")
    assert DocsSite(tmp_path).build().is_file()


def test_table_without_partitions_is_shown_as_such(tmp_path: Path) -> None:
    site = DocsSite(tmp_path)
    table = declared_tables()["raw_orders"]
    result = audit(good("raw_orders"), table, datetime.date.min, docs=site)
    assert result.page
    assert "/all-" in result.page


def test_page_of_a_verdict_does_not_change_it(tmp_path: Path) -> None:
    alone = audit(bad(), TABLE, DAY)
    with_docs = audit(bad(), TABLE, DAY, docs=DocsSite(tmp_path))
    assert dataclasses.replace(with_docs, page=None) == alone


def test_keep_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        DocsSite(tmp_path, keep=0)
