"""Write, audit, publish: the one way into the lake.

What belongs here: staging a candidate, having that very file audited, and the one function that
may publish. The gate is here and not in Dagster: a blocking check holds only within one run, and a
separate run, or one without checks, walks past it (facts: `dagster#17332`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING
from uuid import uuid4

from orchestration.resources.catalog import Audit, Publication
from orchestration.resources.content import (
    canonical,
    code_version,
    content_hash,
    file_sha256,
)
from orchestration.resources.home import file_lock
from orchestration.resources.lake import Lake
from orchestration.tables import LEDGERS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa

    from expectations.audit import AuditResult, Batch
    from expectations.schema import Table

    Auditor = Callable[[Sequence[Batch], Collection[date]], list[AuditResult]]
    SuiteVersion = Callable[[Table], str]


class RefusedError(Exception):
    """The gate refused to publish; the message names the audit and the reason."""


@dataclass(frozen=True)
class Candidate:
    """One staged file: the content proposed for one partition."""

    table: Table
    day: date
    path: Path
    content_hash: str
    file_sha256: str
    row_count: int


@dataclass(frozen=True)
class Facts:
    """Where a candidate comes from; travels with the commit."""

    run_id: str
    generation: int
    inputs: dict[str, str] = field(default_factory=dict)
    model_version: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of one candidate."""

    candidate: Candidate
    audit: Audit
    publication: Publication | None  # None: refused
    changed: bool = False  # False: the same content stood there already
    warnings: tuple[str, ...] = ()
    refusal: str = ""  # why a candidate that passed its audit was refused

    @property
    def reason(self) -> str:
        """Why nothing was published; empty if something was."""
        if self.publication is not None:
            return ""
        return self.refusal or f"audit {self.audit.id} failed: {'; '.join(self.audit.failures)}"


class Publisher:
    """Stages, audits and publishes into one lake.

    `auditor` judges batches of one table and shows in the Data Docs the days that it is told to,
    and whatever is wrong; `suite_version` names the suite in force, so that a verdict of an older
    suite admits nothing; `finish` is called once a run (it writes the Data Docs).
    """

    def __init__(
        self,
        staging: Path,
        lake: Lake,
        auditor: Auditor,
        suite_version: SuiteVersion,
        finish: Callable[[], object],
    ) -> None:
        self.staging = staging
        self.lake = lake
        self.auditor = auditor
        self.suite_version = suite_version
        self.finish = finish

    def stage(self, table: Table, day: date, frame: pd.DataFrame | pa.Table) -> Candidate:
        """Write the candidate of one partition, once; the same content is the same file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        content = canonical(frame, table)
        folder = self.staging / table.name / day.isoformat()
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{uuid4().hex}.tmp"
        # This very file is published, and kept for years: packed, in what every engine reads. Only
        # texts repeat enough for a dictionary: of numbers it spares 7 % of the bytes and takes a
        # third more to write. A day is one row group or few: statistics would spare nobody a read.
        texts = [field.name for field in content.schema if pa.types.is_string(field.type)]
        pq.write_table(
            content, temporary, compression="snappy", use_dictionary=texts, write_statistics=False
        )
        sha256 = file_sha256(temporary)
        path = temporary.replace(folder / f"{sha256}.parquet")
        return Candidate(table, day, path, content_hash(content), sha256, content.num_rows)

    def audit(
        self, candidate: Candidate, run_id: str, *, show: bool = True
    ) -> tuple[Audit, tuple[str, ...]]:
        """Have the staged file judged and the verdict recorded under its hash; warnings beside."""
        shown = [candidate.day] if show else []
        return self.audit_all([candidate], run_id, shown)[0]

    def audit_all(
        self, candidates: Sequence[Candidate], run_id: str, shown: Collection[date]
    ) -> list[tuple[Audit, tuple[str, ...]]]:
        """`audit` for candidates of one table on different days, as a batch."""
        import pyarrow.parquet as pq

        from expectations.audit import Batch

        hashes = [file_sha256(candidate.path) for candidate in candidates]
        results = self.auditor(
            [Batch(pq.ParquetFile(one.path).read(), one.table, one.day) for one in candidates],
            shown,
        )
        audits = [
            Audit(
                table=candidate.table.name,
                partition=candidate.day.isoformat(),
                file_sha256=sha256,
                content_hash=candidate.content_hash,
                suite_version=result.suite_version,
                expected=result.expected,
                evaluated=result.evaluated,
                passed=result.passed,
                failures=tuple(str(failure.message) for failure in result.failures),
                run_id=run_id,
            )
            for candidate, sha256, result in zip(candidates, hashes, results, strict=True)
        ]
        numbers = self.lake.catalog.record_audits(audits)
        return [
            (replace(audit, id=number), tuple(str(told.message) for told in result.warnings))
            for audit, number, result in zip(audits, numbers, results, strict=True)
        ]

    def publish(self, candidate: Candidate, facts: Facts) -> tuple[Publication, bool]:
        """Publish an audited candidate; return the publication and whether anything changed.

        Raises:
            RefusedError: no audit of this very file, an audit that failed or did not evaluate
                every expectation, or a file that changed after its audit.
        """
        found = self.publish_all([(candidate, facts)])[0]
        if isinstance(found, RefusedError):
            raise found
        return found

    def publish_all(
        self, candidates: Sequence[tuple[Candidate, Facts]]
    ) -> list[tuple[Publication, bool] | RefusedError]:
        """`publish` for candidates of one table on different days, in one commit.

        A candidate that is refused does not take the others with it.
        """
        import pyarrow.parquet as pq

        table = candidates[0][0].table
        found: list[tuple[Publication, bool] | RefusedError | None] = []
        changed: dict[date, tuple[Path, Publication]] = {}
        with file_lock(self.lake.root / f".{table.name}.publish.lock"):
            for candidate, _ in candidates:
                try:
                    self._admit(candidate)
                    found.append(None)
                except RefusedError as error:
                    found.append(error)
            for number, (candidate, facts) in enumerate(candidates):
                if found[number] is not None:
                    continue
                publication = _publication(candidate, facts)
                standing = self.lake.publication(table, candidate.day)
                if (
                    standing is not None
                    # A ledger that has gained a column holds the same rows under another hash.
                    and (standing.content_hash == candidate.content_hash or table.name in LEDGERS)
                    and self.lake.holds(table, candidate.day, candidate.content_hash)
                ):
                    # The same content again is no new version; that it still holds is worth
                    # knowing.
                    confirmed = replace(publication, delta_version=standing.delta_version)
                    self.lake.catalog.index([confirmed])
                    found[number] = confirmed, False
                elif table.name in LEDGERS:
                    content = pq.ParquetFile(candidate.path).read()
                    try:
                        self._require_new(candidate, standing, content)
                    except RefusedError as error:
                        found[number] = error
                        continue
                    self.lake.merge_new(table, content, publication)
                else:
                    changed[candidate.day] = candidate.path, publication
            if changed:
                self.lake.replace(table, changed)
        for number, (candidate, _) in enumerate(candidates):
            if isinstance(found[number], RefusedError):
                continue  # a refused candidate stays for the post-mortem
            candidate.path.unlink(missing_ok=True)
            if found[number] is None:
                published = self.lake.publication(table, candidate.day)
                assert published is not None
                found[number] = published, True
        return [one for one in found if one is not None]

    def _admit(self, candidate: Candidate) -> None:
        """Refuse a candidate that no audit admits.

        Raises:
            RefusedError: see `publish`.
        """
        table, day = candidate.table, candidate.day
        where = f"{table.name} of {day}"
        if not candidate.path.is_file():  # two runs that make the same content share its file
            raise RefusedError(
                f"{where}: the staged file is gone, another run may have published it; "
                "materialise that day again"
            )
        sha256 = file_sha256(candidate.path)
        audit = self.lake.catalog.latest_audit(table.name, day.isoformat(), sha256)
        if audit is None:
            raise RefusedError(f"{where}: no audit of the staged file {candidate.path.name}")
        if not audit.passed or audit.expected < 1 or audit.evaluated != audit.expected:
            raise RefusedError(
                f"{where}: audit {audit.id} did not pass "
                f"({audit.evaluated} of {audit.expected} expectations evaluated): "
                f"{'; '.join(audit.failures) or 'nothing evaluated'}"
            )
        if audit.suite_version != self.suite_version(table):
            raise RefusedError(
                f"{where}: audit {audit.id} is of suite {audit.suite_version}, "
                f"in force is {self.suite_version(table)}"
            )
        if sha256 != candidate.file_sha256:
            raise RefusedError(f"{where}: the staged file is not the candidate that was made")

    def _require_new(
        self, candidate: Candidate, standing: Publication | None, content: pa.Table
    ) -> None:
        table = candidate.table
        where = f"{table.name} of {candidate.day}"
        if standing is not None and standing.content_hash != candidate.content_hash:
            raise RefusedError(
                f"{where} is closed: its rows are {standing.content_hash[:12]}, the candidate's "
                f"{candidate.content_hash[:12]}; the ledger is never rewritten"
            )
        # The merge would leave such rows out, and the day would hold less than it says.
        names = list(table.primary_key)
        known = self.lake.read(table, columns=names)
        again = content.select(names).join(known, names, join_type="inner").num_rows
        if again:
            raise RefusedError(
                f"{where}: {again} of {content.num_rows} rows are in the ledger already, under "
                "another day; the ledger is never rewritten"
            )

    def run(
        self,
        table: Table,
        day: date,
        frame: pd.DataFrame | pa.Table,
        facts: Facts,
        *,
        show: bool = True,
    ) -> Outcome:
        """Stage, audit and publish one partition; a refusal is an outcome, not an exception."""
        return self.run_all([(self.stage(table, day, frame), facts)], [day] if show else [])[0]

    def run_all(
        self, candidates: Sequence[tuple[Candidate, Facts]], shown: Collection[date]
    ) -> list[Outcome]:
        """Audit and publish staged candidates of one table; one outcome each, in their order."""
        run_id = candidates[0][1].run_id
        audits = self.audit_all([candidate for candidate, _ in candidates], run_id, shown)
        passed = [one for one, (audit, _) in zip(candidates, audits, strict=True) if audit.passed]
        published = iter(self.publish_all(passed) if passed else [])
        outcomes = []
        for (candidate, _), (audit, warnings) in zip(candidates, audits, strict=True):
            if not audit.passed:
                outcomes.append(Outcome(candidate, audit, None, warnings=warnings))
                continue
            found = next(published)
            if isinstance(found, RefusedError):
                outcomes.append(Outcome(candidate, audit, None, False, warnings, str(found)))
            else:
                outcomes.append(Outcome(candidate, audit, found[0], found[1], warnings))
        return outcomes


def _publication(candidate: Candidate, facts: Facts) -> Publication:
    return Publication(
        table=candidate.table.name,
        partition=candidate.day.isoformat(),
        delta_version=-1,
        content_hash=candidate.content_hash,
        row_count=candidate.row_count,
        generation=facts.generation,
        inputs=facts.inputs,
        run_id=facts.run_id,
        code_version=code_version(),
        model_version=facts.model_version,
    )
