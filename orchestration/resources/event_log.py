"""Dagster's event log in SQLite, with a batch of events written as one.

What belongs here: the one override that a range of days needs. Dagster hands over the planned and
the finished materialisations of a run in batches (`DAGSTER_EVENT_BATCH_SIZE`), but its SQLite
storage inherits the loop that stores them one by one, each in two databases with an engine and a
connection of its own: 8 ms an event, and a day of a range has 62. What does not belong here:
anything that reads; the tables are Dagster's own.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from dagster._core.events import ASSET_EVENTS
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from dagster import EventLogEntry
    from dagster._serdes import ConfigurableClassData


class BatchingSqliteEventLogStorage(SqliteEventLogStorage):
    """`SqliteEventLogStorage` whose batches cost one transaction per database.

    Dagster falls back to storing one by one where a batch raises. The command line opens its
    instance with it (`instance.py`); files and tables are those of Dagster's default, which the
    servers open: in dagster.yaml it would be a module that Dagster's own tools do not find.
    """

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> BatchingSqliteEventLogStorage:
        """Return the storage that a configuration describes."""
        return cls(inst_data=inst_data, **config_value)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events of any runs, as `store_event` would have, in the same order."""
        singly = [e for e in events if e.dagster_event_type not in ASSET_EVENTS]
        batch = [e for e in events if e.dagster_event_type in ASSET_EVENTS]
        if batch:
            # Index first: if it fails nothing was written, and storing one by one starts afresh.
            self._store_in_index(batch)
            for run_id, group in groupby(batch, key=lambda event: event.run_id):
                rows = [self._event_to_row(event) for event in group]
                with self.run_connection(run_id) as connection:
                    connection.execute(SqlEventLogStorageTable.insert(), rows)
        for event in singly:
            self.store_event(event)

    def _store_in_index(self, events: Sequence[EventLogEntry]) -> None:
        with self.index_transaction() as connection:
            ids = []
            for event in events:
                inserted = connection.execute(self.prepare_insert_event(event)).inserted_primary_key
                assert inserted is not None  # SQLite numbers every row
                ids.append(int(inserted[0]))
            self._store_asset_event_tags(connection, events, ids)
            # An asset's entry holds its latest event of a kind: those before it need not be told.
            latest = {
                (event.get_dagster_event().asset_key, event.dagster_event_type): (event, number)
                for event, number in zip(events, ids, strict=True)
            }
            for event, number in latest.values():
                self._store_asset_event(connection, event, number)
