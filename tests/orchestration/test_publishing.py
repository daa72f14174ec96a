"""The gate: every way round it is refused, by the function that publishes and by nothing else."""

from __future__ import annotations

import ast
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from small_tables import (
    D1,
    D2,
    OTHERS,
    THINGS,
    bad_things,
    key,
    others,
    publisher_of,
    things,
)

from expectations.audit import AuditResult, audit_suite
from expectations.schema import Column
from expectations.suites import Suite, suite_for
from orchestration.resources.catalog import Audit
from orchestration.resources.content import canonical, content_hash
from orchestration.resources.lake import Lake, NotPublishedError
from orchestration.resources.publishing import Candidate, Facts, Outcome, Publisher, RefusedError
from orchestration.tables import CAMPAIGN_ASSIGNMENTS

ROOT = Path(__file__).resolve().parents[2]
FACTS = Facts("run", 1)


def audited(publisher: Publisher, day: date = D1, orders: int = 1) -> Candidate:
    candidate = publisher.stage(THINGS, day, things(day, orders=orders))
    audit, _ = publisher.audit(candidate, "run")
    assert audit.passed
    return candidate


def nothing_of(lake: Lake, day: date = D1) -> bool:
    return lake.publication(THINGS, day) is None and lake.read(THINGS, [day]).num_rows == 0


# -- the straight way ----------------------------------------------------------------------------


def test_good_content_is_published(publisher: Publisher, lake: Lake) -> None:
    facts = Facts("run-7", 3, {"raw/all": "x"}, "12")
    outcome = publisher.run(THINGS, D1, things(D1), facts)
    assert outcome.changed
    assert outcome.audit.passed
    assert outcome.audit.evaluated == outcome.audit.expected > 0
    found = lake.publication(THINGS, D1)
    assert found == outcome.publication
    assert found is not None
    assert (found.run_id, found.generation, found.inputs) == ("run-7", 3, {"raw/all": "x"})
    assert (found.model_version, found.row_count) == ("12", 3)
    assert found.content_hash == content_hash(canonical(things(D1), THINGS))
    assert len(found.code_version) == 12


def test_nothing_is_left_in_staging(publisher: Publisher) -> None:
    publisher.run(THINGS, D1, things(D1), FACTS)
    publisher.run(THINGS, D1, things(D1), FACTS)
    assert [path for path in publisher.staging.rglob("*") if path.is_file()] == []


def test_the_same_content_again_is_no_new_version(publisher: Publisher, lake: Lake) -> None:
    first = publisher.run(THINGS, D1, things(D1), FACTS)
    log = lake.root / "things" / "_delta_log"
    before = sorted(path.name for path in log.iterdir())
    shuffled = things(D1).sample(frac=1, random_state=3)
    again = publisher.run(THINGS, D1, shuffled, replace(FACTS, run_id="later", generation=2))
    assert not again.changed
    assert sorted(path.name for path in log.iterdir()) == before
    assert first.publication is not None
    assert again.publication is not None
    assert again.publication.delta_version == first.publication.delta_version
    # that it still holds after a later load is worth knowing: it is not stale any more
    found = lake.publication(THINGS, D1)
    assert found is not None
    assert found.generation == 2


def test_other_content_is_a_new_version(publisher: Publisher, lake: Lake) -> None:
    publisher.run(THINGS, D1, things(D1), FACTS)
    outcome = publisher.run(THINGS, D1, things(D1, orders=2), FACTS)
    assert outcome.changed
    assert outcome.publication is not None
    assert outcome.publication.delta_version == 2
    assert lake.read(THINGS, [D1]).column("order_count").to_pylist() == [2, 2, 2]


def test_a_candidate_has_one_file(publisher: Publisher) -> None:
    one = publisher.stage(THINGS, D1, things(D1))
    two = publisher.stage(THINGS, D1, things(D1).sample(frac=1, random_state=1))
    assert one == two


# -- bad input -----------------------------------------------------------------------------------


def test_bad_input_leaves_the_last_good_partition(publisher: Publisher, lake: Lake) -> None:
    good = publisher.run(THINGS, D1, things(D1), FACTS)
    outcome = publisher.run(THINGS, D1, bad_things(D1), FACTS)
    assert outcome.publication is None
    assert not outcome.audit.passed
    assert any("order_count" in failure for failure in outcome.audit.failures)
    assert lake.publication(THINGS, D1) == good.publication
    assert lake.read(THINGS, [D1]).column("order_count").to_pylist() == [1, 1, 1]
    assert outcome.candidate.path.is_file()  # for the post-mortem


def test_what_failed_its_audit_stops_what_follows_in_another_run(
    publisher: Publisher, lake: Lake
) -> None:
    publisher.run(THINGS, D1, things(D1), FACTS)
    failed = publisher.run(THINGS, D1, bad_things(D1), FACTS).audit
    later = Lake(lake.root, lake.catalog)
    with pytest.raises(NotPublishedError, match=rf"audit {failed.id} .*{failed.suite_version}"):
        later.require(THINGS, D1)
    publisher.run(THINGS, D1, things(D1), FACTS)
    assert later.require(THINGS, D1).row_count == 3


def test_an_empty_day_is_bad_unless_it_is_declared(publisher: Publisher, lake: Lake) -> None:
    outcome = publisher.run(THINGS, D1, things(D1, rows=0), FACTS)
    assert outcome.publication is None
    assert nothing_of(lake)
    may_be_empty = replace(THINGS, may_be_empty=True)
    outcome = publisher.run(may_be_empty, D1, things(D1, rows=0), FACTS)
    assert outcome.publication is not None


def test_a_failed_audit_tells_no_value_of_a_customer(publisher: Publisher) -> None:
    frame = bad_things(D1)
    outcome = publisher.run(THINGS, D1, frame, FACTS)
    told = " ".join(outcome.audit.failures)
    assert told
    assert not any(customer in told for customer in frame["customer_key"])


# -- ways round ----------------------------------------------------------------------------------


def test_without_an_audit(publisher: Publisher, lake: Lake) -> None:
    candidate = publisher.stage(THINGS, D1, things(D1))
    with pytest.raises(
        RefusedError, match=rf"things of 2024-03-01: no audit .*{candidate.path.name}"
    ):
        publisher.publish(candidate, FACTS)
    assert nothing_of(lake)


def test_after_a_failed_audit(publisher: Publisher, lake: Lake) -> None:
    candidate = publisher.stage(THINGS, D1, bad_things(D1))
    audit, _ = publisher.audit(candidate, "run")
    with pytest.raises(RefusedError, match=rf"audit {audit.id} did not pass.*order_count"):
        publisher.publish(candidate, FACTS)
    assert nothing_of(lake)


def test_with_the_audit_of_another_candidate_of_that_day(publisher: Publisher, lake: Lake) -> None:
    audited(publisher, orders=1)
    other = publisher.stage(THINGS, D1, things(D1, orders=2))
    with pytest.raises(RefusedError, match="no audit"):
        publisher.publish(other, FACTS)
    assert nothing_of(lake)


def test_with_the_audit_of_another_day(publisher: Publisher, lake: Lake) -> None:
    candidate = audited(publisher, D1)
    with pytest.raises(RefusedError, match="things of 2024-03-02: no audit"):
        publisher.publish(replace(candidate, day=D2), FACTS)
    assert nothing_of(lake, D2)


def test_with_the_audit_of_another_table(publisher: Publisher, lake: Lake) -> None:
    outcome = publisher.stage(OTHERS, D1, others(D1))
    publisher.audit(outcome, "run")
    with pytest.raises(RefusedError, match="no audit"):
        publisher.publish(replace(outcome, table=THINGS), FACTS)
    assert nothing_of(lake)


def test_a_file_of_one_day_audited_as_another(publisher: Publisher, lake: Lake) -> None:
    candidate = publisher.stage(THINGS, D2, things(D1))
    audit, _ = publisher.audit(candidate, "run")
    assert not audit.passed
    with pytest.raises(RefusedError, match="did not pass"):
        publisher.publish(candidate, FACTS)
    assert nothing_of(lake, D2)


def test_a_file_that_changed_after_its_audit(publisher: Publisher, lake: Lake) -> None:
    candidate = audited(publisher)
    pq.write_table(canonical(bad_things(D1), THINGS), candidate.path)
    with pytest.raises(RefusedError, match="no audit"):
        publisher.publish(candidate, FACTS)
    assert nothing_of(lake)


def test_a_file_with_one_bit_flipped_after_its_audit(publisher: Publisher, lake: Lake) -> None:
    candidate = audited(publisher)
    content = bytearray(candidate.path.read_bytes())
    content[len(content) // 2] ^= 1
    candidate.path.write_bytes(content)
    with pytest.raises(RefusedError, match="no audit"):
        publisher.publish(candidate, FACTS)
    assert nothing_of(lake)


def test_a_file_that_changed_before_its_audit(publisher: Publisher, lake: Lake) -> None:
    """Good, audited, but not what was made: some other process wrote over it."""
    candidate = publisher.stage(THINGS, D1, things(D1, orders=1))
    pq.write_table(canonical(things(D1, orders=5), THINGS), candidate.path)
    audit, _ = publisher.audit(candidate, "run")
    assert audit.passed
    with pytest.raises(RefusedError, match="not the candidate that was made"):
        publisher.publish(candidate, FACTS)
    assert nothing_of(lake)


def test_a_file_that_is_gone(publisher: Publisher, lake: Lake) -> None:
    candidate = audited(publisher)
    candidate.path.unlink()
    with pytest.raises(RefusedError, match="the staged file is gone"):
        publisher.publish(candidate, FACTS)
    assert nothing_of(lake)


def test_a_suite_that_evaluated_nothing(publisher: Publisher, lake: Lake) -> None:
    publisher.auditor = lambda batches, _: [
        audit_suite(b.frame, b.table, b.partition, Suite(b.table.name, ())) for b in batches
    ]
    publisher.suite_version = lambda table: Suite(table.name, ()).version
    outcome = publisher.run(THINGS, D1, things(D1), FACTS)
    assert outcome.publication is None
    with pytest.raises(RefusedError, match=r"\(0 of 0 expectations evaluated\)"):
        publisher.publish(outcome.candidate, FACTS)
    assert nothing_of(lake)


@pytest.mark.parametrize(("expected", "evaluated"), [(0, 0), (5, 0), (5, 4), (-1, -1)], ids=str)
def test_a_verdict_that_passed_without_seeing_all(
    publisher: Publisher, lake: Lake, expected: int, evaluated: int
) -> None:
    """A record that claims to have passed is not believed where its own counts say otherwise."""
    candidate = publisher.stage(THINGS, D1, things(D1))
    verdict = Audit(
        "things",
        D1.isoformat(),
        candidate.file_sha256,
        candidate.content_hash,
        suite_for(THINGS).version,
        expected,
        evaluated,
        True,
        (),
        "run",
    )
    lake.catalog.record_audits([verdict])
    with pytest.raises(RefusedError, match="did not pass"):
        publisher.publish(candidate, FACTS)
    assert nothing_of(lake)


def test_a_check_that_raises(
    publisher: Publisher, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Great Expectations swallows what an expectation raises; the gate does not."""
    from great_expectations.expectations.core import ExpectColumnValuesToBeBetween

    def boom(*_: object, **__: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(ExpectColumnValuesToBeBetween, "_validate", boom)
    from expectations import library

    for name in dir(library):
        one = getattr(library, name)
        if isinstance(one, type) and hasattr(one, "_validate"):
            monkeypatch.setattr(one, "_validate", boom)
    outcome = publisher.run(THINGS, D1, things(D1), FACTS)
    assert outcome.publication is None
    assert outcome.audit.evaluated < outcome.audit.expected
    with pytest.raises(RefusedError, match="did not pass"):
        publisher.publish(outcome.candidate, FACTS)
    assert nothing_of(lake)


def test_an_auditor_that_raises(publisher: Publisher, lake: Lake) -> None:
    def boom(*_: object) -> list[AuditResult]:
        raise RuntimeError("boom")

    publisher.auditor = boom
    with pytest.raises(RuntimeError, match="boom"):
        publisher.run(THINGS, D1, things(D1), FACTS)
    assert nothing_of(lake)


def test_a_verdict_of_an_older_suite(publisher: Publisher, lake: Lake) -> None:
    candidate = audited(publisher)
    stricter = replace(
        THINGS,
        columns=tuple(
            Column(c.name, c.type, c.nullable, 0, 100) if c.name == "order_count" else c
            for c in THINGS.columns
        ),
    )
    publisher.suite_version = lambda _: suite_for(stricter).version
    with pytest.raises(
        RefusedError,
        match=rf"suite {suite_for(THINGS).version}, in force is {suite_for(stricter).version}",
    ):
        publisher.publish(candidate, FACTS)
    assert nothing_of(lake)


def test_a_good_verdict_that_was_followed_by_a_bad_one(publisher: Publisher, lake: Lake) -> None:
    candidate = audited(publisher)
    latest = lake.catalog.latest_audit("things", D1.isoformat())
    assert latest is not None
    lake.catalog.record_audits([replace(latest, passed=False, failures=("on second thoughts",))])
    with pytest.raises(RefusedError, match="on second thoughts"):
        publisher.publish(candidate, FACTS)
    assert nothing_of(lake)


def test_a_declaration_that_is_laxer_than_the_audited_one(publisher: Publisher, lake: Lake) -> None:
    """A day without rows was judged, and refused; calling it legal afterwards does not help."""
    candidate = publisher.stage(THINGS, D1, things(D1, rows=0))
    publisher.audit(candidate, "run")
    with pytest.raises(RefusedError, match="did not pass"):
        publisher.publish(replace(candidate, table=replace(THINGS, may_be_empty=True)), FACTS)
    assert nothing_of(lake)


# -- many days at once -----------------------------------------------------------------------------


def proposals(publisher: Publisher, frames: dict[date, pd.DataFrame]) -> list[Any]:
    return [(publisher.stage(THINGS, day, frame), FACTS) for day, frame in frames.items()]


def test_a_staged_file_that_is_gone_takes_no_other_day_with_it(
    publisher: Publisher, lake: Lake
) -> None:
    """Two runs that make the same content share its file, and the first one takes it away."""
    staged = proposals(publisher, {day: things(day) for day in (D1, D2)})
    publisher.audit_all([candidate for candidate, _ in staged], "run", [])
    staged[0][0].path.unlink()
    gone, published = publisher.publish_all(staged)
    assert isinstance(gone, RefusedError)
    assert "another run may have published it" in str(gone)
    assert not isinstance(published, RefusedError)
    assert lake.days(THINGS) == [D2]


def test_many_days_are_one_commit(publisher: Publisher, lake: Lake) -> None:
    days = [D1 + timedelta(days=n) for n in range(5)]
    frames = {day: things(day, 3 + n) for n, day in enumerate(days)}
    outcomes = publisher.run_all(proposals(publisher, frames), [])
    assert [o.changed for o in outcomes] == [True] * 5
    assert {o.publication.delta_version for o in outcomes if o.publication} == {1}
    assert [lake.read(THINGS, [day]).num_rows for day in days] == [3, 4, 5, 6, 7]
    assert lake.days(THINGS) == days
    # and an index that is lost is rebuilt from the one commit
    lake.catalog.forget("things")
    assert lake.days(THINGS) == days
    # again: nothing changes but the day that does
    frames[days[2]] = things(days[2], 1)
    outcomes = publisher.run_all(proposals(publisher, frames), [])
    assert [o.changed for o in outcomes] == [False, False, True, False, False]
    assert [lake.read(THINGS, [day]).num_rows for day in days] == [3, 4, 1, 6, 7]


def test_a_bad_day_among_many_is_the_only_one_refused(publisher: Publisher, lake: Lake) -> None:
    days = [D1 + timedelta(days=n) for n in range(4)]
    frames = {day: things(day) for day in days} | {days[1]: bad_things(days[1])}
    staged = proposals(publisher, frames)
    outcomes = publisher.run_all(staged, [])
    assert [o.publication is not None for o in outcomes] == [True, False, True, True]
    assert "audit" in outcomes[1].reason
    assert [o.reason for o in outcomes if o.publication] == [""] * 3
    assert lake.days(THINGS) == [days[0], days[2], days[3]]
    # a file that is changed after its audit is refused alone as well
    staged = proposals(publisher, {day: things(day, 7) for day in days})
    publisher.audit_all([candidate for candidate, _ in staged], "run", [])
    other = publisher.stage(THINGS, days[2], things(days[2], 9))
    other.path.replace(staged[2][0].path)
    found = publisher.publish_all(staged)
    assert [isinstance(one, RefusedError) for one in found] == [False, False, True, False]
    assert [lake.read(THINGS, [day]).num_rows for day in days] == [7, 7, 3, 7]


MAY_WRITE = {"orchestration/resources/lake.py", "orchestration/resources/publishing.py"}


def test_nobody_else_writes_the_lake() -> None:
    """In the source: only the gate calls what writes a published table."""
    found = set()
    for path in sorted((ROOT / "orchestration").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).split(".")
            writes = name[-1] in ("merge_new", "create_write_transaction", "write_deltalake")
            if writes or name[-2:] == ["lake", "replace"]:
                found.add(path.relative_to(ROOT).as_posix())
    assert found == MAY_WRITE


# -- the ledger ----------------------------------------------------------------------------------


def assignments(day: date, numbers: range, arm: str = "control") -> pd.DataFrame:
    rows = len(numbers)
    return pd.DataFrame(
        {
            "assigned_date": [day] * rows,
            "campaign_id": ["spring"] * rows,
            "customer_key": [key(n) for n in numbers],
            "arm": [arm] * rows,
            "u_holdout": [0.5] * rows,
            "u_layer": [0.5] * rows,
            "u_coverage": [0.5] * rows,
            "u_arm": [0.25] * rows,
            "weights_json": ['{"control": 1, "mail": 1}'] * rows,
            "propensity": [0.5] * rows,
            "config_sha256": ["0" * 64] * rows,
            "snapshot_date": [day] * rows,
            "campaign_version": [1] * rows,
            "layer": ["crm"] * rows,
            "is_control": [arm == "control"] * rows,
            "window_end_date": [day + timedelta(days=28)] * rows,
            "account_type": ["consumer"] * rows,
            "value_tier": ["high"] * rows,
            "launch_power": ["ok"] * rows,
            "segment": [None] * rows,
        }
    )


def draw(publisher: Publisher, day: date, numbers: range, arm: str = "control") -> Outcome:
    return publisher.run(CAMPAIGN_ASSIGNMENTS, day, assignments(day, numbers, arm), FACTS)


def test_a_closed_day_of_the_ledger_stays_closed(publisher: Publisher, lake: Lake) -> None:
    draw(publisher, D1, range(4))
    before = lake.read(CAMPAIGN_ASSIGNMENTS)
    again = draw(publisher, D1, range(4))
    assert not again.changed
    for frame in ((range(4), "mail"), (range(5), "control"), (range(3), "control")):
        reason = draw(publisher, D1, *frame).reason
        assert "is closed" in reason
        assert "never rewritten" in reason
    assert lake.read(CAMPAIGN_ASSIGNMENTS).equals(before)


def test_a_closed_day_is_itself_when_the_ledger_has_gained_a_column(
    publisher: Publisher, lake: Lake
) -> None:
    """After an upgrade an old day that runs again holds the same rows under another hash."""
    gained = ("account_type", "value_tier")
    kept = tuple(c for c in CAMPAIGN_ASSIGNMENTS.columns if c.name not in gained)
    narrow = replace(CAMPAIGN_ASSIGNMENTS, columns=kept)
    names = narrow.column_names
    for day, numbers in ((D1, range(4)), (D2, range(0))):
        publisher.run(narrow, day, assignments(day, numbers, "control")[list(names)], FACTS)
    for day, rows in ((D1, 4), (D2, 0)):
        standing = lake.read_frame(CAMPAIGN_ASSIGNMENTS, [day])
        again = publisher.run(CAMPAIGN_ASSIGNMENTS, day, standing, FACTS)
        assert again.publication is not None, again.reason
        assert not again.changed
        assert len(lake.read_frame(CAMPAIGN_ASSIGNMENTS, [day])) == rows
    assert "never rewritten" in draw(publisher, D1, range(4)).reason, "rows are as they were"


def test_a_day_on_which_nobody_was_drawn_is_closed_too(publisher: Publisher, lake: Lake) -> None:
    draw(publisher, D1, range(0))
    assert "never rewritten" in draw(publisher, D1, range(2)).reason
    assert lake.read(CAMPAIGN_ASSIGNMENTS).num_rows == 0


def test_nobody_is_drawn_twice(publisher: Publisher, lake: Lake) -> None:
    """Rows that are in the ledger under an earlier day would vanish in the merge: refused."""
    draw(publisher, D1, range(3))
    assert "in the ledger already" in draw(publisher, D2, range(2, 5)).reason
    assert lake.read(CAMPAIGN_ASSIGNMENTS).num_rows == 3
    assert lake.publication(CAMPAIGN_ASSIGNMENTS, D2) is None


def test_the_ledger_only_ever_grows(publisher: Publisher, lake: Lake) -> None:
    """In the log: not one file of the ledger was ever removed."""
    import json

    for number, day in enumerate((D1, D2, date(2024, 3, 3))):
        draw(publisher, day, range(10 * number, 10 * number + 10))
        draw(publisher, day, range(10 * number, 10 * number + 10))
    log = sorted((lake.root / "campaign_assignments" / "_delta_log").glob("*.json"))
    actions = [json.loads(line) for path in log for line in path.read_text().splitlines()]
    assert sum("add" in action for action in actions) >= 3
    assert not any("remove" in action for action in actions)
    assert lake.read(CAMPAIGN_ASSIGNMENTS).num_rows == 30


def test_two_publishers_one_lake(publisher: Publisher, lake: Lake, tmp_path: Path) -> None:
    """A verdict is of a file, not of a publisher: a second staging folder has to earn its own."""
    audited(publisher)
    other = publisher_of(tmp_path / "elsewhere", lake)
    candidate = other.stage(THINGS, D1, things(D1, orders=3))
    with pytest.raises(RefusedError, match="no audit"):
        other.publish(candidate, FACTS)
