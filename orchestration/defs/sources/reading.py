"""Reading one landing file: CSV or Parquet to chunks of Arrow, with the line of every row.

Here belongs what can be wrong with a file as a file: links, encoding, damage, columns that are not
those of the contract. What can be wrong with a row is judged in parsing.py.
"""

from __future__ import annotations

import csv
import difflib
import os
import stat
from collections.abc import Callable, Iterator
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration.defs.sources.contract import SourceTable

if TYPE_CHECKING:
    import pyarrow as pa

_CSV_CHUNK = 100_000
_PARQUET_CHUNK = 262_144

#: Type in the contract -> forms in which a Parquet file may deliver it. 32-bit floats are not
#: among them: above 1,677 they cannot tell four decimals apart.
_READABLE = {
    "string": {"text", "integer", "double", "null"},
    "integer": {"text", "integer", "double", "decimal", "null"},
    "decimal": {"text", "integer", "double", "decimal", "null"},
    "timestamp": {"text", "naive", "zoned", "date", "null"},
}


class FileRejected(Exception):  # noqa: N818 - it is what happened to the file
    """One landing file was not loaded; nothing of it is in the raw tables."""

    def __init__(self, table: str, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.table = table
        self.file = file
        self.reason = reason


class Reader:
    """One open landing file: its columns, and its rows in chunks of Arrow.

    A chunk has `_line` and the delivered columns of the contract; texts are trimmed, empty ones
    null. `kinds` says in which form each column is delivered; `rows_in` and `ragged` (CSV rows with
    a wrong number of fields, as line and reason) are complete after the last chunk.
    """

    def __init__(self, table: SourceTable, file: str, header: list[str]) -> None:
        self.table = table
        self.file = file
        self.rows_in = 0
        self.ragged: list[tuple[int, str]] = []
        self.kinds: dict[str, str] = {}
        self.delivered, self.unexpected = self._match(header)

    def chunks(self) -> Iterator[pa.Table]:
        """Yield the rows."""
        raise NotImplementedError

    def reject(self, reason: str) -> FileRejected:
        """The exception that says why this file is refused."""
        return FileRejected(self.table.name, self.file, reason)

    def _match(self, header: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Columns of the contract and other columns in `header`; FileRejected where one lacks."""
        known = self.table.column_names
        if twice := sorted({name for name in header if header.count(name) > 1}):
            raise self.reject(f"more than one column is called {', '.join(twice)}")
        delivered = tuple(name for name in known if name in header)
        unexpected = tuple(name for name in header if name not in known)
        missing = [name for name in self.table.required_columns if name not in header]
        if not missing:
            return delivered, unexpected
        if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
            raise self.reject("fields must be separated by commas")
        if not delivered:
            # Without quoting it: the first line of a file without a header is a customer.
            raise self.reject("the first line names no column of the contract; has it a header?")
        hints = []
        for name in missing:
            close = difflib.get_close_matches(name, unexpected, n=1, cutoff=0.5)
            hints.append(f"{name} (is it {close[0]!r}?)" if close else name)
        reason = f"required columns are missing: {', '.join(hints)}"
        if unexpected:
            reason += f"; not in the contract: {', '.join(unexpected)}"
        raise self.reject(reason)


class _CsvReader(Reader):
    def __init__(self, table: SourceTable, file: str, stream: BufferedReader) -> None:
        self._stream = stream
        text = TextIOWrapper(stream, encoding="utf-8-sig", errors="strict", newline="")
        self._text = text
        self._rows = csv.reader(text, strict=True)
        self.table, self.file = table, file
        header = self._next()
        if header is None:
            raise self.reject("it has no header")
        super().__init__(table, file, [name.strip() for name in header])
        self._width = len(header)
        self._places = [[n.strip() for n in header].index(name) for name in self.delivered]
        self.kinds = dict.fromkeys(self.delivered, "text")

    def chunks(self) -> Iterator[pa.Table]:
        rows: list[list[str]] = []
        lines: list[int] = []
        last = self._rows.line_num
        while (row := self._next()) is not None:
            first, last = last + 1, self._rows.line_num
            if not row:
                continue  # a blank line is not a row
            self.rows_in += 1
            if len(row) != self._width:
                self.ragged.append(
                    (first, f"has {len(row)} fields where the header has {self._width}")
                )
                continue
            rows.append(row)
            lines.append(first)
            if len(rows) == _CSV_CHUNK:
                yield self._chunk(rows, lines)
                rows, lines = [], []
        if rows:
            yield self._chunk(rows, lines)

    def _chunk(self, rows: list[list[str]], lines: list[int]) -> pa.Table:
        import pyarrow as pa

        arrays = {"_line": pa.chunked_array([pa.array(lines, pa.int32())])}
        for name, place in zip(self.delivered, self._places, strict=True):
            values = pa.chunked_array([pa.array([row[place] for row in rows], pa.string())])
            arrays[name] = _trimmed(values)
        return pa.table(arrays)

    def _next(self) -> list[str] | None:
        try:
            return next(self._rows, None)
        except UnicodeDecodeError:
            raise self.reject(self._where_encoding_breaks()) from None
        except csv.Error as error:
            raise self.reject(f"line {self._rows.line_num}: not valid CSV: {error}") from None

    def _where_encoding_breaks(self) -> str:
        """The first byte that is not UTF-8: the decoder only knows its place in a buffer."""
        self._stream.seek(0)
        line, start = 1, 0
        for content in self._stream:  # a newline byte is never inside a UTF-8 character
            try:
                content.decode("utf-8")
            except UnicodeDecodeError as error:
                where = f"byte {start + error.start} (line {line})"
                return f"{where} is not UTF-8; save the file as UTF-8"
            start += len(content)
            line += 1
        return "it is not UTF-8; save the file as UTF-8"


class _ParquetReader(Reader):
    def __init__(self, table: SourceTable, file: str, stream: BufferedReader) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.table, self.file = table, file
        try:
            self._parquet = pq.ParquetFile(stream, page_checksum_verification=True)
            schema = self._parquet.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None
        super().__init__(table, file, list(schema.names))
        for name in self.delivered:
            column = table.column(name)
            kind = _kind(schema.field(name).type)
            if kind not in _READABLE[column.type]:
                raise self.reject(
                    f"column {name} is {schema.field(name).type}; the contract says {column.type}"
                )
            self.kinds[name] = kind

    def chunks(self) -> Iterator[pa.Table]:
        import pyarrow as pa

        batches = self._parquet.iter_batches(_PARQUET_CHUNK, columns=list(self.delivered))
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                batch.validate(full=True)  # also that texts are UTF-8
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(error) from None
            first = self.rows_in + 1
            self.rows_in += batch.num_rows
            if batch.num_rows == 0:
                continue
            arrays = {"_line": pa.array(range(first, self.rows_in + 1), pa.int32())}
            for name in self.delivered:
                values = pa.chunked_array([batch.column(name)])
                if pa.types.is_dictionary(values.type):
                    values = values.cast(values.type.value_type)
                arrays[name] = _trimmed(values) if self.kinds[name] == "text" else values
            yield pa.table(arrays)

    def _damaged(self, error: Exception) -> FileRejected:
        detail = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        return self.reject(f"not a whole Parquet file (truncated or damaged): {detail}")


def open_reader(table: SourceTable, stream: BufferedReader, file: str) -> Reader:
    """The reader for a file of this name; FileRejected where it cannot be read."""
    if os.fstat(stream.fileno()).st_size == 0:
        raise FileRejected(
            table.name,
            file,
            "the file is empty (0 bytes); a day without rows is a file with a header",
        )
    if file.endswith(".csv"):
        return _CsvReader(table, file, stream)
    if file.endswith(".parquet"):
        return _ParquetReader(table, file, stream)
    raise FileRejected(table.name, file, "neither .csv nor .parquet")


def open_regular(table: SourceTable, path: Path, file: str) -> BufferedReader:
    """Open a file that is a file of its own: no link may lead the loader elsewhere."""
    try:
        # Not blocking: opening a named pipe would wait for its writer.
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(path, flags)
    except OSError as error:
        link = path.is_symlink()
        reason = "it is a symbolic link" if link else f"cannot be opened: {error.strerror}"
        raise FileRejected(table.name, file, reason) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        what = "has other hard links" if stat.S_ISREG(status.st_mode) else "is not a regular file"
        raise FileRejected(table.name, file, f"it {what}; deliver a copy")
    return os.fdopen(descriptor, "rb")


def landing_files(landing: Path, table: SourceTable) -> list[Path]:
    """All entries that are to be loaded, or to be refused, in the order of their names."""
    folder = landing / table.name
    if folder.is_symlink():
        return [folder]
    found = []
    for root, folders, files in os.walk(folder):  # does not follow links
        here = Path(root)
        links = [name for name in folders if (here / name).is_symlink()]
        found += [here / name for name in (*files, *links) if name[0] not in "._"]
    return sorted(found, key=lambda path: path.relative_to(landing).as_posix())


def _kind(type: pa.DataType) -> str:
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(type):
        type = type.value_type
    if types.is_string(type) or types.is_large_string(type) or types.is_string_view(type):
        return "text"
    if types.is_timestamp(type):
        return "zoned" if type.tz else "naive"
    tests: tuple[tuple[str, Callable[[pa.DataType], bool]], ...] = (
        ("integer", types.is_integer),
        ("double", types.is_float64),
        ("decimal", types.is_decimal),
        ("date", types.is_date),
        ("null", types.is_null),
    )
    return next((name for name, test in tests if test(type)), "other")


def _trimmed(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts without blanks around them; empty ones are null."""
    import pyarrow.compute as pc

    trimmed = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)
