"""The audit: one batch, one suite, one verdict.

Belongs here: `audit`, which judges a staged candidate, `audit_range`, which judges many of one
table, and the result that the gate records under the hash of a candidate. Does not belong here:
where the candidate lies, what a verdict leads to (orchestration), what is expected (`suites.py`).

The verdict is `passed` only if every expectation of the suite was evaluated, none raised and no
critical one failed. Great Expectations reports; it does not judge: an empty batch passes most of
its expectations, one that raised is merely unsuccessful, and nobody counts those that are missing.

No value of the batch leaves this module: results hold counts and names of declared columns, and of
an exception its class.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import threading
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import pandas as pd

from expectations.rules import Severity
from expectations.schema import Table
from expectations.suites import Expectation, Suite, suite_for

if TYPE_CHECKING:
    import pyarrow as pa
    from great_expectations.core import (
        ExpectationSuiteValidationResult,
        ExpectationValidationResult,
    )

    from expectations.docs import DocsSite

#: The library keeps one validator per batch and is not documented as safe for threads.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Failure:
    """One expectation that failed or could not be evaluated, by column where it has columns.

    `unexpected_count` counts rows (or columns, for the schema); 0 if it could not be evaluated.
    """

    severity: Severity
    expectation_type: str
    column: str | None
    unexpected_count: int
    message: str


@dataclass(frozen=True)
class AuditResult:
    """The verdict on one partition. `failures` block, `warnings` are told.

    `expected` and `evaluated` count expectations; `page` is the page within the Data Docs, as a
    path relative to their folder, or None.
    """

    table: str
    partition: datetime.date
    suite_version: str
    row_count: int
    expected: int
    evaluated: int
    passed: bool
    failures: tuple[Failure, ...]
    warnings: tuple[Failure, ...]
    page: str | None = None

    def summary(self) -> str:
        """One line for a log or an error: the verdict and the first failures."""
        head = (
            f"{self.table} {self.partition}: {'passed' if self.passed else 'FAILED'}, "
            f"{self.evaluated} of {self.expected} expectations evaluated, {self.row_count} rows, "
            f"{len(self.warnings)} warnings"
        )
        shown = "; ".join(failure.message for failure in self.failures[:3])
        more = f"; and {len(self.failures) - 3} more" if len(self.failures) > 3 else ""
        return f"{head}: {shown}{more}" if shown else head


def audit(
    frame: pd.DataFrame | pa.Table,
    table: Table,
    partition: datetime.date,
    *,
    docs: DocsSite | None = None,
    parameters: Mapping[str, int] | None = None,
) -> AuditResult:
    """Judge a candidate partition against the suite of its table.

    Args:
        frame: the rows of the staged file, n x columns of `table`. Preferably the Arrow table as
            it was read: in plain pandas a null of a nullable number and NaN are one and the same,
            and NaN is then taken for null.
        table: the declaration.
        partition: the day that `table.partition_by` must equal in every row.
        docs: the site to which the validation is added; it is written by `docs.build()`.
        parameters: settings that business rules refer to, see `suites.suite_for`.

    Returns:
        The verdict. Bad data of whatever kind gives a failed result, never an exception.

    Raises:
        ValueError: the declaration and the rules of its table do not fit (a mistake in code).
    """
    return audit_suite(frame, table, partition, suite_for(table, parameters), docs=docs)


def audit_suite(
    frame: pd.DataFrame | pa.Table,
    table: Table,
    partition: datetime.date,
    suite: Suite,
    *,
    docs: DocsSite | None = None,
    is_shown: bool = True,
) -> AuditResult:
    """`audit` with a given suite. A suite without expectations fails: it has seen nothing.

    Unless `is_shown`, `docs` gets only what is told of: a page costs 35 ms.
    """
    from expectations import library  # registers the expectations; its own faults are not caught

    rows = len(frame)
    with _ONE_AT_A_TIME, _quiet():
        try:
            result = _validate(_to_batch(frame, table), suite, partition)
        except Exception as error:  # whatever the data does to the library, it is not passed
            failure = Failure(
                "critical",
                "suite",
                None,
                0,
                f"the suite could not be evaluated: {type(error).__name__} at {_place(error)}",
            )
            return AuditResult(
                table.name,
                partition,
                suite.version,
                rows,
                len(suite.expectations),
                0,
                False,
                (failure,),
                (),
            )
        finally:
            library.release()
    verdict = _judge(result, table, partition, suite, rows)
    if docs is None or not (is_shown or verdict.failures or verdict.warnings):
        return verdict
    return docs.add(verdict, result)


@dataclass(frozen=True)
class Batch:
    """One staged partition, as `audit` takes it."""

    frame: pa.Table
    table: Table
    partition: datetime.date


def audit_range(
    batches: Sequence[Batch],
    *,
    docs: DocsSite | None = None,
    shown: Collection[datetime.date] = (),
    parameters: Mapping[str, int] | None = None,
) -> list[AuditResult]:
    """Judge many partitions of one table, each as `audit` would: same suites, same verdicts.

    Great Expectations takes 20 to 70 ms a batch whatever its size. Here one query counts what the
    expectations of the suite count, in all partitions at once; where it counts nothing the verdict
    is given. Whatever is not spotless goes through `audit`, which says what is wrong.

    Args:
        batches: at most one per partition, of one table.
        shown: partitions to be audited and shown in `docs` in any case.
    """
    verdicts: dict[datetime.date, AuditResult] = {}
    by_suite: dict[Suite, dict[datetime.date, pa.Table]] = {}
    for batch in batches:
        if batch.partition not in shown:
            suite = suite_for(batch.table, parameters)  # an empty day may be legal or not
            by_suite.setdefault(suite, {})[batch.partition] = batch.frame
    for suite, frames in by_suite.items():
        for day in _spotless(frames, suite):
            number = len(suite.expectations)
            verdicts[day] = AuditResult(
                suite.table, day, suite.version, len(frames[day]), number, number, True, (), ()
            )
    for batch in batches:
        if batch.partition not in verdicts:
            verdicts[batch.partition] = audit_suite(
                batch.frame,
                batch.table,
                batch.partition,
                suite_for(batch.table, parameters),
                docs=docs,
                is_shown=batch.partition in shown,
            )
    return [verdicts[batch.partition] for batch in batches]


def _spotless(frames: Mapping[datetime.date, pa.Table], suite: Suite) -> set[datetime.date]:
    """Partitions that pass without a word; none where that cannot be said."""
    from expectations import library

    if not suite.expectations:
        return set()
    with _ONE_AT_A_TIME, _quiet():
        try:
            return library.spotless(frames, _in_the_library(suite))
        except Exception:  # of the data: `audit` will name what raised
            return set()
        finally:
            library.release()


def _judge(
    result: ExpectationSuiteValidationResult,
    table: Table,
    partition: datetime.date,
    suite: Suite,
    rows: int,
) -> AuditResult:
    """Hold the results against the suite, one by one."""
    by_name = {_name(one): one for one in result.results}
    failures: list[Failure] = []
    warnings: list[Failure] = []
    evaluated = 0
    if not suite.expectations:
        failures.append(
            Failure("critical", "suite", None, 0, "the suite has no expectation: nothing was seen")
        )
    for expectation in suite.expectations:
        one = by_name.get(expectation.name)
        raised = (one.exception_info or {}).get("exception_message") if one is not None else None
        if one is None or raised or not isinstance(one.success, bool):
            why = f"raised {raised}" if raised else "was not evaluated"
            failures.append(
                Failure(
                    expectation.severity,
                    expectation.type,
                    None,
                    0,
                    f"{expectation.name} {why}, so it is not passed ({expectation.reason})",
                )
            )
            continue
        evaluated += 1
        if not one.success:
            told = failures if expectation.severity == "critical" else warnings
            told.extend(_failures(expectation, one))
    passed = evaluated == len(suite.expectations) > 0 and not failures
    return AuditResult(
        table.name,
        partition,
        suite.version,
        rows,
        len(suite.expectations),
        evaluated,
        passed,
        tuple(failures),
        tuple(warnings),
    )


def _failures(expectation: Expectation, one: ExpectationValidationResult) -> Iterator[Failure]:
    """One failure per offending column, or one for an expectation without columns."""
    rows = one.result.get("element_count")
    found: dict[str, int] = one.result.get("unexpected_columns") or {}
    if not found:  # the library's own row count
        found = {f"{one.result.get('observed_value')} rows": 0}
    for label, count in found.items():
        column, _, flaw = label.partition(" (")
        if expectation.type == "expect_table_row_count_to_be_between":
            column, what = "", label
        elif flaw:  # of the schema: `revenue (missing)`, `(twice)`
            what = label if column else f"{count} columns ({flaw}"
        elif label in ("rows", "batch"):
            column, what = "", f"{count} of {rows} rows" if label == "rows" else "does not hold"
        else:
            what = f"{label}: {count} of {rows} rows"
        yield Failure(
            severity=expectation.severity,
            expectation_type=expectation.type,
            column=column or None,
            unexpected_count=count,
            message=f"{expectation.name}: {what} ({expectation.reason})",
        )


def _place(error: Exception) -> str:
    """Where an exception was raised, without its message: that may hold values of the batch."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{PurePath(last.filename).name}:{last.lineno}"


def _name(one: ExpectationValidationResult) -> str:
    return str(((one.expectation_config and one.expectation_config.meta) or {}).get("name"))


def _raised(one: ExpectationValidationResult) -> str | None:
    """The class of the exception that an expectation raised, None if it did not raise."""
    from expectations.library import exception_type

    info = one.exception_info or {}
    nested = [part for part in info.values() if isinstance(part, dict)]
    for part in nested or [info]:
        if part.get("raised_exception"):
            return exception_type(part.get("exception_traceback"))
    return None


def _validate(
    frame: pd.DataFrame, suite: Suite, partition: datetime.date
) -> ExpectationSuiteValidationResult:
    """Run the suite; results carry counts only, exceptions their class only."""
    import great_expectations as gx
    from great_expectations.validator.v1_validator import Validator

    library_suite = gx.ExpectationSuite(name=suite.table, expectations=_in_the_library(suite))
    validator = Validator(
        batch_definition=_batch_definition(),
        batch_parameters={"dataframe": frame},
        # never SUMMARY, the default: it carries values of the batch
        result_format={"result_format": "BASIC", "partial_unexpected_count": 0},
    )
    result = validator.validate_expectation_suite(
        library_suite, expectation_parameters={"partition": partition.isoformat()}
    )
    for one in result.results:
        raised = _raised(one)
        one.exception_info = {
            "raised_exception": raised is not None,
            "exception_message": raised,
            "exception_traceback": "",
        }
    # the batch specification among the meta can hold the frame itself
    result.meta = {"suite_version": suite.version, "partition": partition.isoformat()}
    result.batch_id = None
    return result


def _in_the_library(suite: Suite) -> list[Any]:
    """The expectations of a suite as objects of Great Expectations."""
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.metadata_types import FailureSeverity

    return [
        ExpectationConfiguration(
            type=e.type,
            kwargs=e.arguments,
            severity=FailureSeverity(e.severity),
            meta={"name": e.name, "reason": f"{e.severity}: {e.reason}"},
        ).to_domain_obj()
        for e in suite.expectations
    ]


@functools.cache
def _batch_definition() -> Any:
    """The one batch definition of this process, in a context that lives in memory only."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.execution_engine import pandas_execution_engine

    # The engine hashes every value of a batch below this size for a fingerprint that nobody reads:
    # half the time of an audit of 9,000 x 72.
    pandas_execution_engine.HASH_THRESHOLD = 0
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    asset = context.data_sources.add_pandas("staged").add_dataframe_asset("candidate")
    return asset.add_batch_definition_whole_dataframe("partition")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's loggers still: they repeat messages of exceptions, values included."""
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _to_batch(frame: pd.DataFrame | pa.Table, table: Table) -> pd.DataFrame:
    """The batch as pandas backed by Arrow, which tells null from NaN and keeps exact types."""
    import pyarrow as pa

    if isinstance(frame, pa.Table):
        names, arrays = frame.column_names, list(frame.columns)
    else:
        names = [str(name) for name in frame.columns]
        declared = {column.name: column.type for column in table.columns}
        arrays = [_to_arrow(frame.iloc[:, i], declared.get(name)) for i, name in enumerate(names)]
    batch = pd.DataFrame(
        {i: pd.Series(pd.arrays.ArrowExtensionArray(array)) for i, array in enumerate(arrays)}
    )
    batch.columns = pd.Index(names)
    return batch


def _to_arrow(series: pd.Series, declared: str | None) -> pa.ChunkedArray:
    """A pandas column as Arrow; what pandas had to widen because of nulls is narrowed again."""
    import pyarrow as pa

    try:
        array = pa.array(series)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        # of mixed types: as text, so that the expectation of types fails and the audit goes on
        array = pa.array(series.astype(str).astype(object), type=pa.string())
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_null(array.type) and declared is not None:
        array = pa.nulls(len(array), _arrow_type(declared))
    elif (
        declared == "integer"
        and pa.types.is_float64(array.type)
        and not isinstance(series.dtype, pd.ArrowDtype)
    ):
        with contextlib.suppress(pa.ArrowInvalid):  # a fraction: stays double and fails
            array = array.cast(pa.int64())
    return pa.chunked_array([array])


def _arrow_type(declared: str) -> pa.DataType:
    import pyarrow as pa

    return {
        "string": pa.string(),
        "integer": pa.int64(),
        "decimal": pa.decimal128(18, 4),
        "double": pa.float64(),
        "boolean": pa.bool_(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }[declared]
