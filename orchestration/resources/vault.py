"""The vault: the one place that knows names, addresses and the shop's own customer ids.

Here belongs the pseudonym (`customer_key`) and the table that leads from it back to the person.
What is known about a customer besides that belongs in the warehouse and the lake, under the key;
consent too. Nothing here is ever logged.
"""

from __future__ import annotations

import hmac
import os
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, get_args

from ml.campaigns.addresses import Field, normalise

KEY_LENGTH = 32

# The domain keeps a key of this home from equalling an HMAC made of the same secret elsewhere.
_KEY_DOMAIN = b"holdfast/customer_key/v1\0"
_CHECK_DOMAIN = b"holdfast/vault_check/v1\0"

_FORMAT = 1
_SCHEMA = """
CREATE TABLE identities (
    customer_key TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL,
    name TEXT, name_delivery TEXT,
    email TEXT, email_delivery TEXT,
    phone TEXT, phone_delivery TEXT
) WITHOUT ROWID;
CREATE TABLE secret_check (digest TEXT NOT NULL);
"""


class VaultError(Exception):
    """The vault cannot be used as it stands."""


class Identity(NamedTuple):
    """One delivery of what is known about who a customer is.

    `delivery` orders deliveries: of several values of a field the one with the greatest `delivery`
    wins, whatever the order in which they are stored; an empty field never overwrites.
    """

    customer_key: str
    customer_id: str
    name: str | None = None
    email: str | None = None
    phone: str | None = None
    delivery: str = ""

    def __repr__(self) -> str:
        """Without the person: identities end up in tracebacks."""
        return f"Identity({self.customer_key})"


def normalise_id(customer_id: str) -> str:
    """A shop's id in the form that is hashed: NFKC, without blanks around it, case kept."""
    if not customer_id.isascii():
        customer_id = unicodedata.normalize("NFKC", customer_id)
    return customer_id.strip()


class Vault:
    """`vault.sqlite` of one home, opened under that home's secret.

    Raises VaultError where the file was made under another secret (its keys would match nothing)
    or by a later version. Several processes may open, and first create, the same vault.
    """

    def __init__(self, path: Path, secret: bytes) -> None:
        if len(secret) < 16:
            raise VaultError("the secret of a vault needs at least 16 bytes")
        self._path = path
        self._secret = secret
        self._initialise()

    def __repr__(self) -> str:
        return f"Vault({self._path.name})"

    def keys_for(self, ids: Iterable[str]) -> list[str]:
        """`customer_key` of each id, in order; raises ValueError for an empty id.

        HMAC-SHA256 of the normalised id, domain-separated, first 32 hex characters (128 bits: a
        million customers collide with probability 1.5e-27).
        """
        # Copying a keyed state costs 1.3 s per million ids, hmac.digest() 1.8 s.
        keyed = hmac.new(self._secret, _KEY_DOMAIN, "sha256")
        keys = []
        for customer_id in ids:
            normal = normalise_id(customer_id)
            if not normal:
                raise ValueError("a customer id must not be empty")
            mac = keyed.copy()
            mac.update(normal.encode())
            keys.append(mac.hexdigest()[:KEY_LENGTH])
        return keys

    def store(self, identities: Iterable[Identity]) -> None:
        """Insert or complete identities, in one transaction.

        Raises VaultError, and stores nothing, where two different ids have one key.
        """
        with self._transaction() as connection:
            connection.execute(
                "CREATE TEMP TABLE incoming (customer_key TEXT, customer_id TEXT, name TEXT,"
                " email TEXT, phone TEXT, delivery TEXT)"
            )
            connection.executemany("INSERT INTO incoming VALUES (?, ?, ?, ?, ?, ?)", identities)
            connection.execute(
                "INSERT OR IGNORE INTO identities (customer_key, customer_id)"
                " SELECT customer_key, customer_id FROM incoming ORDER BY delivery, customer_id"
            )
            (collisions,) = connection.execute(
                "SELECT count(*) FROM incoming i JOIN identities v USING (customer_key)"
                " WHERE i.customer_id <> v.customer_id"
                " AND normalise_id(i.customer_id) <> normalise_id(v.customer_id)"
            ).fetchone()
            if collisions:
                raise VaultError(
                    f"{collisions} customer ids share a customer_key with another id; nothing of "
                    "this delivery was stored"
                )
            for field in ("name", "email", "phone"):
                # A tie of deliveries is broken by the value, so that no order of storing shows.
                connection.execute(
                    f"UPDATE identities SET {field} = i.{field}, {field}_delivery = i.delivery "
                    f"FROM (SELECT customer_key, {field}, delivery, row_number() OVER ("
                    f"  PARTITION BY customer_key ORDER BY delivery DESC, {field} DESC) AS latest"
                    f"  FROM incoming WHERE {field} IS NOT NULL) AS i "
                    f"WHERE i.latest = 1 AND identities.customer_key = i.customer_key AND ("
                    f"  identities.{field} IS NULL OR (i.delivery, i.{field}) > "
                    f"  (identities.{field}_delivery, identities.{field}))"
                )
            connection.execute("DROP TABLE incoming")

    def identities(self, customer_keys: Sequence[str]) -> dict[str, Identity]:
        """Who the customers are, by key; keys that the vault does not know are left out."""
        found: dict[str, Identity] = {}
        with closing(self._connect()) as connection:
            for start in range(0, len(customer_keys), 500):
                some = list(customer_keys[start : start + 500])
                marks = ", ".join("?" * len(some))
                rows = connection.execute(
                    "SELECT customer_key, customer_id, name, email, phone FROM identities"
                    f" WHERE customer_key IN ({marks})",
                    some,
                )
                found.update((row[0], Identity(*row)) for row in rows)
        return found

    def keys_by_address(self, field: Field, addresses: Iterable[str]) -> set[str]:
        """The customers with one of these e-mail addresses or phone numbers, however written.

        field: `email` or `phone`; compared as `ml.campaigns.addresses` writes them.
        """
        if field not in get_args(Field):
            raise ValueError(f"there is no address {field!r}")
        wanted = {normalise(field, address) for address in addresses} - {""}
        if not wanted:
            return set()
        with closing(self._connect()) as connection:
            rows = connection.execute(
                f"SELECT customer_key, {field} FROM identities WHERE {field} IS NOT NULL"
            )
            return {key for key, address in rows if normalise(field, address) in wanted}

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=60, isolation_level=None)
        connection.create_function("normalise_id", 1, normalise_id, deterministic=True)
        # Temporary copies of identifiers stay in memory, and what is deleted is overwritten.
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA secure_delete = ON")
        return connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _initialise(self) -> None:
        """Create the file and its tables once, whoever comes first; check the secret after that."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # The mode is set at creation: there is no moment at which another user could open it.
        # SQLite gives its journal the mode of the database.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        self._path.chmod(0o600)
        digest = hmac.digest(self._secret, _CHECK_DOMAIN, "sha256").hex()
        with self._transaction() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute("INSERT INTO secret_check VALUES (?)", (digest,))
                connection.execute(f"PRAGMA user_version = {_FORMAT}")
            elif version != _FORMAT:
                raise VaultError(
                    f"{self._path.name} has format {version}; this version of Holdfast reads "
                    f"{_FORMAT}"
                )
            (stored,) = connection.execute("SELECT digest FROM secret_check").fetchone()
        if not hmac.compare_digest(stored, digest):
            raise VaultError(
                f"{self._path.name} was made under another secret: under this one every customer "
                "would get a new key. Restore this home's secret."
            )
