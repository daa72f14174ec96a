"""The expectations of this project as Great Expectations classes, on pandas batches.

Belongs here: expectation classes and the two metrics behind them. Does not belong here: which
expectation a table gets (`suites.py`), the verdict (`audit.py`).

Why not the library's own: its `between` passes NaN, its results carry values (a minimum is some
customer's), and one expectation per column costs 3 to 5 ms each. Here one expectation judges all
columns of its kind with one SQL query over the batch (in memory, by DuckDB) and
reports counts by column and nothing else. Great Expectations is slow to import: import this
module inside functions.
"""

from __future__ import annotations

import datetime
import functools
import re
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
from great_expectations.core.suite_parameters import SuiteParameterDict
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import (
    BatchExpectation,
    parse_result_format,
    render_suite_parameter_string,
)
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider
from great_expectations.render import LegacyDiagnosticRendererType, LegacyRendererType
from great_expectations.render.components import RenderedStringTemplateContent
from great_expectations.render.renderer.renderer import renderer
from great_expectations.validator.metric_configuration import MetricConfiguration
from great_expectations.validator.validator import ValidationDependencies

if TYPE_CHECKING:
    import duckdb

ARROW_METRIC = "batch.arrow"
LOADED_METRIC = "batch.loaded"
COUNTS_METRIC = "batch.unexpected_counts"


class BatchArrow(TableMetricProvider):
    """The batch as an Arrow table; no copy, since pandas is backed by Arrow (`audit.py`)."""

    metric_name = ARROW_METRIC

    @metric_value(engine=PandasExecutionEngine)
    def _pandas(
        cls,  # noqa: N805 (the registry calls it as a class method)
        execution_engine: PandasExecutionEngine,
        metric_domain_kwargs: dict,
        **_: Any,
    ) -> pa.Table:
        frame, _compute, _accessor = execution_engine.get_compute_domain(
            domain_kwargs=metric_domain_kwargs, domain_type="table"
        )
        arrays = [pa.chunked_array(pa.array(frame.iloc[:, i])) for i in range(frame.shape[1])]
        return pa.table(arrays, names=[str(name) for name in frame.columns])


class BatchLoaded(TableMetricProvider):
    """The batch loaded as table `batch`, once: a query on Arrow costs ten times one on a table."""

    metric_name = LOADED_METRIC

    @metric_value(engine=PandasExecutionEngine)
    def _pandas(
        cls,  # noqa: N805
        metrics: dict[str, Any],
        **_: Any,
    ) -> int:
        database = _database()
        database.register("arriving", metrics[ARROW_METRIC])
        try:
            database.execute("CREATE OR REPLACE TABLE batch AS FROM arriving")
        finally:
            database.unregister("arriving")
        return int(metrics[ARROW_METRIC].num_rows)

    @classmethod
    def _get_evaluation_dependencies(
        cls, metric: MetricConfiguration, *args: Any, **kwargs: Any
    ) -> dict[str, MetricConfiguration]:
        return {ARROW_METRIC: MetricConfiguration(ARROW_METRIC, metric.metric_domain_kwargs)}


class BatchUnexpectedCounts(TableMetricProvider):
    """The one row of a query over the table `batch`, as {label: count}."""

    metric_name = COUNTS_METRIC
    value_keys = ("query",)

    @metric_value(engine=PandasExecutionEngine)
    def _pandas(
        cls,  # noqa: N805
        metric_value_kwargs: dict,
        **_: Any,
    ) -> dict[str, int]:
        found = _database().execute(metric_value_kwargs["query"])
        labels = [column[0] for column in found.description or ()]
        row = found.fetchone()
        if row is None:
            raise ValueError("the query of an expectation returned no row")
        return {label: int(count) for label, count in zip(labels, row, strict=True)}

    @classmethod
    def _get_evaluation_dependencies(
        cls, metric: MetricConfiguration, *args: Any, **kwargs: Any
    ) -> dict[str, MetricConfiguration]:
        return {LOADED_METRIC: MetricConfiguration(LOADED_METRIC, metric.metric_domain_kwargs)}


@functools.cache
def _database() -> duckdb.DuckDBPyConnection:
    """One in-memory database, without access to files or extensions, for one audit at a time."""
    import duckdb

    return duckdb.connect(":memory:", config={"threads": 1, "enable_external_access": False})


def release() -> None:
    """Forget the batch. Call it after each audit: nobody's rows outlive their verdict."""
    _database().execute("DROP TABLE IF EXISTS batch")


class _CountExpectation(BatchExpectation, ABC):
    """Succeeds if every count is 0. Subclasses say what is counted, and in words what they expect.

    The result holds `unexpected_count`, `element_count` and `unexpected_columns` ({column: count}),
    never a value of the batch.
    """

    domain_keys: ClassVar[tuple[str, ...]] = ("batch_id",)

    def _query(self) -> str:
        """One row of counts, one column per label, over the table `batch`."""
        raise NotImplementedError

    @classmethod
    def _in_words(cls, arguments: Mapping[str, Any]) -> str:
        """What is expected, in one sentence."""
        raise NotImplementedError

    def get_validation_dependencies(
        self, execution_engine: Any = None, runtime_configuration: dict | None = None
    ) -> ValidationDependencies:
        """Ask for the number of rows and the counts of `_query`.

        Not through the parent's method, which builds the configuration of the expectation anew for
        each of its keys (40 % of an audit's time).
        """
        return self._depend_on(
            {LOADED_METRIC: {}, COUNTS_METRIC: {"query": self._query()}}, runtime_configuration
        )

    def _depend_on(
        self, metrics: Mapping[str, dict[str, Any]], runtime_configuration: dict | None
    ) -> ValidationDependencies:
        domain = {"batch_id": self.batch_id}
        return ValidationDependencies(
            metric_configurations={
                name: MetricConfiguration(name, domain, values) for name, values in metrics.items()
            },
            result_format=parse_result_format((runtime_configuration or {})["result_format"]),
        )

    def _validate(
        self,
        metrics: dict,
        runtime_configuration: dict | None = None,
        execution_engine: Any = None,
    ) -> dict[str, Any]:
        return _judge(metrics[COUNTS_METRIC], metrics[LOADED_METRIC])

    @classmethod
    @renderer(renderer_type=LegacyRendererType.PRESCRIPTIVE)
    @render_suite_parameter_string
    def _prescriptive_renderer(
        cls, configuration: Any = None, result: Any = None, runtime_configuration: Any = None
    ) -> list[RenderedStringTemplateContent]:
        return [_sentence(cls._in_words(configuration.kwargs), configuration.meta or {})]

    @classmethod
    @renderer(renderer_type=LegacyDiagnosticRendererType.UNEXPECTED_STATEMENT)
    def _diagnostic_unexpected_statement_renderer(
        cls, configuration: Any = None, result: Any = None, runtime_configuration: Any = None
    ) -> list[Any]:
        return []  # the observed value says it, by column

    @classmethod
    @renderer(renderer_type=LegacyDiagnosticRendererType.OBSERVED_VALUE)
    def _diagnostic_observed_value_renderer(
        cls, configuration: Any = None, result: Any = None, runtime_configuration: Any = None
    ) -> str:
        return describe_counts(result.result) if result and result.result else "not evaluated"


def _judge(counts: Mapping[str, int], rows: int) -> dict[str, Any]:
    unexpected = {label: count for label, count in counts.items() if count}
    total = sum(unexpected.values())
    return {
        "success": not unexpected,
        "result": {
            "observed_value": total,
            "unexpected_count": total,
            "unexpected_percent": 100.0 * total / max(rows * len(counts), 1),
            "element_count": int(rows),
            "unexpected_columns": unexpected,
        },
    }


def describe_counts(result: Mapping[str, Any]) -> str:
    """`silence_ratio: 3 of 9,000 rows`, from the result of an expectation."""
    unexpected = result.get("unexpected_columns")
    if unexpected is None:
        return str(result.get("observed_value", "--"))
    if not unexpected:
        return "nothing unexpected"
    rows = f"{result.get('element_count', 0):,} rows"
    if set(unexpected) == {"batch"}:
        return f"does not hold for the {rows}"
    if set(unexpected) == {"rows"}:
        return f"{unexpected['rows']:,} of {rows}"
    shown = [
        label if label.endswith(")") else f"{label}: {count:,} of {rows}"
        for label, count in list(unexpected.items())[:10]
    ]
    more = f" and {len(unexpected) - 10} more" if len(unexpected) > 10 else ""
    return ", ".join(shown) + more


def _sentence(expected: str, meta: Mapping[str, Any]) -> RenderedStringTemplateContent:
    """Name, expectation and reason of one expectation, for a page."""
    return RenderedStringTemplateContent(
        content_block_type="string_template",
        string_template={
            "template": "$name $expected $reason",
            "params": {
                "name": str(meta.get("name", "")),
                "expected": expected,
                "reason": str(meta.get("reason", "")),
            },
            "styling": {
                "params": {
                    "name": {"tag": "strong"},
                    "expected": {"tag": "div"},
                    "reason": {"tag": "div", "classes": ["reason"]},
                }
            },
        },
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float) and value.is_integer():
        return repr(int(value))  # 1.0 is a decimal, for which every integer would be cast
    if isinstance(value, int | float):
        return repr(value)
    return "'" + str(value).replace("'", "''") + "'"


class _RowExpectation(_CountExpectation, ABC):
    """Counts rows, each by a condition of its own."""

    def flaws(self, partition: str | None = None) -> dict[str, str]:
        """SQL conditions of which a row is counted, by label.

        `partition` is the SQL of the audited partition; None: as the suite was told.
        """
        raise NotImplementedError

    def _query(self) -> str:
        flaws = self.flaws()
        # Through a subquery, since a filter holds no window function; count(*) FILTER, since
        # count_if over no rows is null.
        found = ", ".join(f"({sql}) AS flaw_{i}" for i, sql in enumerate(flaws.values()))
        counts = ", ".join(
            f"count(*) FILTER (WHERE flaw_{i}) AS {_quoted(label)}" for i, label in enumerate(flaws)
        )
        return f"SELECT {counts} FROM (SELECT {found} FROM batch)"


class ExpectColumnsToBeComplete(_RowExpectation):
    """No column of `columns` holds a null."""

    columns: list[str]
    success_keys: ClassVar[tuple[str, ...]] = ("columns",)

    def flaws(self, partition: str | None = None) -> dict[str, str]:
        """Count nulls."""
        return {name: f"{_quoted(name)} IS NULL" for name in self.columns}

    @classmethod
    def _in_words(cls, arguments: Mapping[str, Any]) -> str:
        return f"No null in {_names(arguments['columns'])}."


class ExpectColumnsToBeFinite(_RowExpectation):
    """No column of `columns` holds NaN or an infinity. A null is neither."""

    columns: list[str]
    success_keys: ClassVar[tuple[str, ...]] = ("columns",)

    def flaws(self, partition: str | None = None) -> dict[str, str]:
        """Count NaN and infinities."""
        # through DOUBLE, so that one form serves integers and decimals, for which it cannot fail
        return {name: f"NOT isfinite(CAST({_quoted(name)} AS DOUBLE))" for name in self.columns}

    @classmethod
    def _in_words(cls, arguments: Mapping[str, Any]) -> str:
        return f"Neither NaN nor infinity in {_names(arguments['columns'])}."


class ExpectColumnsToBeWithinBounds(_RowExpectation):
    """Each column of `bounds` lies within its [minimum, maximum]; None is open."""

    bounds: dict[str, list[Any]]
    success_keys: ClassVar[tuple[str, ...]] = ("bounds",)

    def flaws(self, partition: str | None = None) -> dict[str, str]:
        """Count what lies outside."""
        conditions = {}
        for name, (minimum, maximum) in self.bounds.items():
            sides = []
            if minimum is not None:
                sides.append(f"{_quoted(name)} < {_literal(minimum)}")
            if maximum is not None:
                sides.append(f"{_quoted(name)} > {_literal(maximum)}")
            conditions[name] = " OR ".join(sides)
        return conditions

    @classmethod
    def _in_words(cls, arguments: Mapping[str, Any]) -> str:
        parts = [
            f"{name} from {'-∞' if low is None else low} to {'∞' if high is None else high}"
            for name, (low, high) in arguments["bounds"].items()
        ]
        return f"Within bounds: {'; '.join(parts)}."


class ExpectColumnsToBeInSets(_RowExpectation):
    """Each column of `allowed` holds only the values listed for it, or null."""

    allowed: dict[str, list[Any]]
    success_keys: ClassVar[tuple[str, ...]] = ("allowed",)

    def flaws(self, partition: str | None = None) -> dict[str, str]:
        """Count what is not listed."""
        return {
            name: f"{_quoted(name)} NOT IN ({', '.join(_literal(v) for v in values)})"
            for name, values in self.allowed.items()
        }

    @classmethod
    def _in_words(cls, arguments: Mapping[str, Any]) -> str:
        parts = [
            f"{name}: {', '.join(map(str, values))}"
            for name, values in arguments["allowed"].items()
        ]
        return f"Only declared values: {'; '.join(parts)}."


class ExpectColumnsNotToMatchRegex(_RowExpectation):
    """No text of `columns` contains a match of `regex` (RE2)."""

    columns: list[str]
    regex: str
    success_keys: ClassVar[tuple[str, ...]] = ("columns", "regex")

    def flaws(self, partition: str | None = None) -> dict[str, str]:
        """Count matches."""
        # To look for a character that every match has takes a tenth of looking for a match.
        first = "contains({0}, '@') AND " if _always_has_an_at(self.regex) else ""
        matches = first + "regexp_matches({0}, {1})"
        return {n: matches.format(_quoted(n), _literal(self.regex)) for n in self.columns}

    @classmethod
    def _in_words(cls, arguments: Mapping[str, Any]) -> str:
        return f"No match of {arguments['regex']} in {_names(arguments['columns'])}."


class ExpectColumnToEqualPartition(_RowExpectation):
    """Every row of `date_column` is the audited `partition` (a suite parameter, ISO date)."""

    date_column: str  # not `column`: the library would give it a section of its own in its docs
    partition: str | SuiteParameterDict
    success_keys: ClassVar[tuple[str, ...]] = ("date_column", "partition")

    def flaws(self, partition: str | None = None) -> dict[str, str]:
        """Count rows of other days."""
        if partition is None:
            if not isinstance(self.partition, str):
                raise ValueError("the partition was not given")
            partition = f"DATE '{datetime.date.fromisoformat(self.partition)}'"
        name = self.date_column
        return {name: f"{_quoted(name)} IS DISTINCT FROM {partition}"}

    @classmethod
    def _in_words(cls, arguments: Mapping[str, Any]) -> str:
        return f"Every {arguments['date_column']} is the partition."


class ExpectRowsToSatisfy(_RowExpectation):
    """Every row satisfies the SQL `condition`; unknown passes, as in a CHECK constraint."""

    condition: str
    success_keys: ClassVar[tuple[str, ...]] = ("condition",)

    def flaws(self, partition: str | None = None) -> dict[str, str]:
        """Count rows that do not."""
        return {"rows": f"NOT ({self.condition})"}

    @classmethod
    def _in_words(cls, arguments: Mapping[str, Any]) -> str:
        return f"Every row: {arguments['condition']}."


@dataclass(frozen=True)
class Group:
    """What an expectation counts in groups of rows."""

    label: str
    by: Sequence[str]
    flaw: str  # SQL condition over aggregates of which a group is counted
    count: str  # SQL aggregate: as how much

    def query(self, selected: str, *more: str) -> str:
        """SQL that selects from `flawed`, a count per group with a flaw, and `more` columns.

        Groups agree in `more`, too.
        """
        keys = ", ".join([*more, *map(_quoted, self.by)])
        return (
            f"SELECT {selected} FROM (SELECT {', '.join([*more, f'{self.count} AS flawed'])}, "
            f"({self.flaw}) AS is_flawed FROM batch GROUP BY {keys}) WHERE is_flawed"
        )


class _GroupExpectation(_CountExpectation, ABC):
    """Counts rows by what they are together with those that agree with them in some columns.

    A window says the same of each row, but sorts them for it, with all of their columns.
    """

    def group(self) -> Group:
        """Of which groups how many rows are counted."""
        raise NotImplementedError

    def _query(self) -> str:
        group = self.group()
        return group.query(f"coalesce(sum(flawed), 0) AS {_quoted(group.label)}")


class ExpectKeyToBeUnique(_GroupExpectation):
    """No two rows agree in all of `columns`; counts the rows beyond the first of each key."""

    columns: list[str]
    success_keys: ClassVar[tuple[str, ...]] = ("columns",)

    def group(self) -> Group:
        """Count the rows beyond the first of each key."""
        return Group(", ".join(self.columns), self.columns, "count(*) > 1", "count(*) - 1")

    @classmethod
    def _in_words(cls, arguments: Mapping[str, Any]) -> str:
        return f"One row per {_names(arguments['columns'])}."


class ExpectGroupsToSatisfy(_GroupExpectation):
    """The rows of each group of `by` satisfy the SQL `condition` over aggregates; unknown passes.

    A window over the aggregates sees all groups. Counts the rows of the groups that do not.
    """

    by: list[str]
    condition: str
    success_keys: ClassVar[tuple[str, ...]] = ("by", "condition")

    def group(self) -> Group:
        """Count the rows of the groups that do not."""
        return Group("rows", self.by, f"NOT ({self.condition})", "count(*)")

    @classmethod
    def _in_words(cls, arguments: Mapping[str, Any]) -> str:
        return f"Every {_names(arguments['by'])}: {arguments['condition']}."


class ExpectTableToSatisfy(_CountExpectation):
    """The batch satisfies the SQL `condition` over aggregates; an empty batch does."""

    condition: str
    success_keys: ClassVar[tuple[str, ...]] = ("condition",)

    def count(self) -> str:
        """SQL aggregate: 1 if the rows do not satisfy the condition, else 0."""
        return f"CASE WHEN count(*) = 0 OR coalesce(({self.condition}), FALSE) THEN 0 ELSE 1 END"

    def _query(self) -> str:
        return f"SELECT {self.count()} AS batch FROM batch"

    @classmethod
    def _in_words(cls, arguments: Mapping[str, Any]) -> str:
        return f"The batch: {arguments['condition']}."


class _SchemaExpectation(_CountExpectation, ABC):
    """Judges the schema of the batch instead of its rows."""

    def get_validation_dependencies(
        self, execution_engine: Any = None, runtime_configuration: dict | None = None
    ) -> ValidationDependencies:
        """Ask for the batch as Arrow, for its schema."""
        return self._depend_on({ARROW_METRIC: {}}, runtime_configuration)

    def unexpected(self, schema: pa.Schema) -> dict[str, int]:
        """Columns that are not as declared, by label."""
        raise NotImplementedError

    def _validate(
        self,
        metrics: dict,
        runtime_configuration: dict | None = None,
        execution_engine: Any = None,
    ) -> dict[str, Any]:
        batch = metrics[ARROW_METRIC]
        return _judge(self.unexpected(batch.schema), batch.num_rows)


class ExpectColumnsToMatchDeclaration(_SchemaExpectation):
    """The batch has exactly `columns`, in this order.

    The name of a column that was not declared is not reported: it may be a value (a file without
    its header line).
    """

    columns: list[str]
    success_keys: ClassVar[tuple[str, ...]] = ("columns",)

    def unexpected(self, schema: pa.Schema) -> dict[str, int]:
        """Missing, undeclared and doubled columns, and their order."""
        found = schema.names
        missing = {f"{name} (missing)": 1 for name in self.columns if name not in found}
        undeclared = sum(name not in self.columns for name in found)
        doubled = len(found) - len(set(found))
        known = [name for name in found if name in self.columns]
        unexpected = {
            **missing,
            "(not declared)": undeclared,
            "(twice)": doubled,
        }
        if not any(unexpected.values()):
            unexpected["(out of order)"] = sum(
                a != b for a, b in zip(known, self.columns, strict=True)
            )
        return unexpected

    @classmethod
    def _in_words(cls, arguments: Mapping[str, Any]) -> str:
        return f"Exactly these columns, in this order: {_names(arguments['columns'])}."


class ExpectTypesToMatchDeclaration(_SchemaExpectation):
    """Each column of `types` ({column: type of `schema.py`}) has its declared type."""

    types: dict[str, str]
    success_keys: ClassVar[tuple[str, ...]] = ("types",)

    def unexpected(self, schema: pa.Schema) -> dict[str, int]:
        """Columns of another type."""
        return {
            f"{name} (not {type_})": 1
            for name, type_ in self.types.items()
            for found in [schema.field(i).type for i in schema.get_all_field_indices(name)]
            if not has_type(found, type_)
        }

    @classmethod
    def _in_words(cls, arguments: Mapping[str, Any]) -> str:
        kinds: dict[str, list[str]] = {}
        for name, type_ in arguments["types"].items():
            kinds.setdefault(type_, []).append(name)
        parts = [f"{type_}: {_names(names)}" for type_, names in kinds.items()]
        return f"Declared types. {'; '.join(parts)}."


ROW_COUNT = "expect_table_row_count_to_be_between"

_CLASS = re.compile(r"\[(?:\[:\w+:\]|[^\]])*\]")


def _always_has_an_at(regex: str) -> bool:
    """Whether an @ stands in the pattern by itself: no choice, nothing that may be left out."""
    plain = _CLASS.sub("", regex)
    return not set("|()") & set(plain) and bool(re.search(r"(?<!\\)@(?![*?{])", plain))


_WINDOW = re.compile(r"\bOVER \((PARTITION BY )?")


def spotless(
    batches: Mapping[datetime.date, pa.Table], expectations: Sequence[Any]
) -> set[datetime.date]:
    """The partitions in which no expectation counts anything, counted over all of them at once.

    What `_query` counts in one batch is counted here per partition: each window of a condition is
    confined to the partition, and the audited partition is that of the row. A partition that is
    left out has a flaw or could not be judged this way; Great Expectations has the word on it.

    Args:
        batches: partition -> its rows, all with the same schema.
        expectations: the expectations of one suite, as objects of the library.
    """
    schema = next(iter(batches.values())).schema
    if any(batch.schema != schema for batch in batches.values()):
        return set()
    alone: list[str] = []  # conditions that need no other row
    windowed: list[str] = []
    grouped: list[Group] = []
    whole: list[str] = []  # of a partition as a whole
    least = 0
    for expectation in expectations:
        if isinstance(expectation, _SchemaExpectation):
            if any(expectation.unexpected(schema).values()):
                return set()
        elif isinstance(expectation, ExpectTableToSatisfy):
            if "batch" in expectation.condition and sum(map(bool, map(len, batches.values()))) > 1:
                return set()  # a subquery would see the rows of all partitions
            whole.append(expectation.count())
        elif isinstance(expectation, _GroupExpectation):
            grouped.append(expectation.group())
        elif isinstance(expectation, _RowExpectation):
            for condition in _possible(expectation, schema):
                confined = _WINDOW.sub(_confine, condition)
                (alone if confined == condition else windowed).append(confined)
        elif expectation.expectation_type == ROW_COUNT and expectation.max_value is None:
            least = int(expectation.min_value or 0)
        else:
            return set()
    rows = [
        batch.append_column("audited_partition", pa.repeat(pa.scalar(day, pa.date32()), len(batch)))
        for day, batch in batches.items()
    ]
    database = _database()
    database.register("batch", pa.concat_tables(rows))
    # A filter stops at the first flaw and keeps no sums: half of what a count per condition costs.
    # Windows apart: through a window every column of the query would have to be carried.
    queries = []
    if alone:
        queries.append(f"SELECT DISTINCT audited_partition FROM batch WHERE {_any(alone)}")
    if windowed:
        flaws = ", ".join(f"({condition}) AS flaw_{i}" for i, condition in enumerate(windowed))
        queries.append(
            f"SELECT DISTINCT audited_partition FROM (SELECT audited_partition, {flaws} FROM batch)"
            f" WHERE {_any([f'flaw_{i}' for i in range(len(windowed))])}"
        )
    for group in grouped:
        within = replace(group, flaw=_WINDOW.sub(_confine, group.flaw))
        queries.append(within.query("DISTINCT audited_partition", "audited_partition"))
    if whole:
        queries.append(
            f"SELECT audited_partition FROM batch GROUP BY 1 HAVING {' + '.join(whole)} > 0"
        )
    try:
        flawed = {day for query in queries for (day,) in database.execute(query).fetchall()}
    finally:
        database.unregister("batch")
    return {day for day, batch in batches.items() if day not in flawed and len(batch) >= least}


def _possible(expectation: _RowExpectation, schema: pa.Schema) -> list[str]:
    """The conditions that rows of this schema can meet: a whole number is always finite."""
    flaws = expectation.flaws("audited_partition")
    if isinstance(expectation, ExpectColumnsToBeFinite):
        return [sql for name, sql in flaws.items() if pa.types.is_floating(schema.field(name).type)]
    return list(flaws.values())


def _any(conditions: Sequence[str]) -> str:
    """SQL that is true where one of the conditions is; unknown is not, as in a filter."""
    return " OR ".join(f"({condition})" for condition in conditions)


def _confine(window: re.Match[str]) -> str:
    """Let a window see its own partition only."""
    return "OVER (PARTITION BY audited_partition" + (", " if window.group(1) else " ")


def has_type(found: pa.DataType, declared: str) -> bool:
    """Whether an Arrow type is what a column declared as `declared` may be stored as.

    Decimals fit DECIMAL(18,4); integers are signed and of at most 64 bits; timestamps are UTC,
    in any unit, without a zone only as raw tables have them.
    """
    if pa.types.is_dictionary(found):
        found = found.value_type
    if declared == "string":
        return bool(pa.types.is_string(found) or pa.types.is_large_string(found))
    if declared == "integer":
        return bool(pa.types.is_signed_integer(found))
    if declared == "decimal":
        return (
            bool(pa.types.is_decimal128(found))
            and found.scale <= 4
            and found.precision - found.scale <= 14
        )
    if declared == "double":
        return bool(pa.types.is_float64(found))
    if declared == "boolean":
        return bool(pa.types.is_boolean(found))
    if declared == "date":
        return bool(pa.types.is_date32(found))
    if declared == "timestamp":
        return bool(pa.types.is_timestamp(found)) and found.tz in (None, "UTC", "Etc/UTC")
    raise ValueError(f"unknown declared type {declared!r}")


def _names(names: list[str]) -> str:
    shown = 12
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def exception_type(traceback: str | None) -> str:
    """The class of the first exception in a traceback, never its message.

    The message may hold values of the batch; the first is the cause, those after it wrap it.
    """
    found = re.search(r"^[A-Za-z_][\w.]*(?:Error|Exception|Invalid)(?=:|$)", traceback or "", re.M)
    return found.group().rsplit(".", 1)[-1] if found else "Error"
