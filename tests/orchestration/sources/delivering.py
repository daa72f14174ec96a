"""A small shop: a landing folder, a vault and a warehouse in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from orchestration.defs.sources.contract import load_contract, raw_columns
from orchestration.defs.sources.loading import (
    LoadReport,
    accounting,
    check_accounting,
    load_landing,
)
from orchestration.resources.vault import Vault

SECRET = b"a secret of the tests"
REQUIRED = {
    "customers": "customer_id,created_at\nann,2024-01-01\n",
    "orders": "order_id,customer_id,ordered_at\no1,ann,2024-01-02T10:00:00\n",
    "order_items": "order_id,line_number,product_id,quantity,unit_price\no1,1,p1,2,1.25\n",
}


class Shop:
    """One small shop."""

    def __init__(self, folder: Path) -> None:
        self.landing = folder / "landing"
        self.vault = Vault(folder / "vault.sqlite", SECRET)
        self.connection = duckdb.connect(config={"threads": 1})
        self.messages: list[str] = []
        self.landing.mkdir(parents=True)

    def deliver(self, table: str, text: str | bytes, name: str = "1.csv") -> Path:
        path = self.landing / table / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def deliver_required(self) -> None:
        for table, text in REQUIRED.items():
            self.deliver(table, text, "0.csv")

    def load(self, zone: str = "Europe/London", bad: float = 0.01, after: int = 0) -> LoadReport:
        report = load_landing(
            self.connection,
            self.landing,
            load_contract(),
            self.vault,
            zone,
            bad,
            on_progress=self.messages.append,
            after=after,
        )
        check_accounting(accounting(self.connection))
        return report

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(query).fetchall()

    def key(self, customer_id: str) -> str:
        return self.vault.keys_for([customer_id])[0]

    def raw(self, table: str) -> pd.DataFrame:
        """The raw table without provenance, in a total order."""
        names = [c.name for c in raw_columns(load_contract().table(table))]
        kept = ", ".join(f'"{n}"' for n in names if n not in ("_file_id", "_line"))
        return self.connection.execute(f"SELECT {kept} FROM raw.{table} ORDER BY ALL").df()
