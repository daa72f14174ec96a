"""The suppression list: people whom nobody may contact, whatever they consented to.

What belongs here: reading the file, and who is on it on a day. What does not: whose id or address
it is (the vault knows), what follows (eligibility.py, export.py).

A CSV with the column `customer_id`, `email` or `phone` (one of them per row), and optionally
`since`, `until` (days, both included) and `reason`.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from datetime import date

from ml.campaigns.definition import CampaignError

WHO = ("customer_id", "email", "phone")
COLUMNS = (*WHO, "since", "until", "reason")


@dataclass(frozen=True)
class Suppressed:
    """One row: by what the person is known, and on which days the row holds."""

    field: str
    value: str
    since: date | None = None
    until: date | None = None

    def __repr__(self) -> str:
        """Without the person: rows end up in tracebacks."""
        return f"Suppressed(by {self.field})"

    def holds_on(self, day: date) -> bool:
        """Whether the person may not be contacted on `day`."""
        return (self.since or day) <= day <= (self.until or day)


def parse_suppression(text: str, source: str) -> tuple[Suppressed, ...]:
    """The rows of a list.

    Raises CampaignError with file and line: an unknown column, a row that names nobody or somebody
    twice, a day that is none. A list that cannot be read must not let anybody through.
    """
    rows = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    header = [name.strip().casefold() for name in next(rows, [])]
    unknown = sorted(set(header) - set(COLUMNS))
    if unknown or not set(header) & set(WHO):
        raise CampaignError(
            f"{source}:1: {f'unknown column {unknown[0]!r}' if unknown else 'nobody is named'}; "
            f"the columns are {', '.join(COLUMNS)}"
        )
    found = []
    for row in rows:
        cells = {name: cell.strip() for name, cell in zip(header, row, strict=False)}
        if not any(cells.values()):
            continue
        where = f"{source}:{rows.line_num}"
        named = [name for name in WHO if cells.get(name)]
        if len(named) != 1 or len(row) > len(header):
            raise CampaignError(f"{where}: a row names one of {', '.join(WHO)}, and only that")
        since, until = (_day(cells.get(name), where, name) for name in ("since", "until"))
        if since and until and until < since:
            raise CampaignError(f"{where}: until: {until} lies before since {since}")
        found.append(Suppressed(named[0], cells[named[0]], since, until))
    return tuple(found)


def _day(text: str | None, where: str, name: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise CampaignError(f"{where}: {name}: {text!r} is no day such as 2025-05-01") from error
