from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.resources.vault import Identity, Vault, VaultError

SECRET = b"a secret of the tests"


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault.sqlite", SECRET)


def test_keys_are_those_of_the_standard(vault: Vault) -> None:
    # printf 'holdfast/customer_key/v1\0ann' | openssl dgst -sha256 -hmac 'a secret of the tests'
    assert vault.keys_for(["ann"]) == ["3023d0e5b0dfb9146255d214e3789d67"]


def test_ids_are_normalised_but_keep_their_case(vault: Vault) -> None:
    plain, padded, wide, upper = vault.keys_for(["a1", " a1\t", "ａ１", "A1"])
    assert plain == padded == wide
    assert plain != upper


def test_an_empty_id_has_no_key(vault: Vault) -> None:
    with pytest.raises(ValueError, match="empty"):
        vault.keys_for(["  "])


def test_other_secret_other_keys(tmp_path: Path, vault: Vault) -> None:
    other = Vault(tmp_path / "other.sqlite", SECRET + b"!")
    assert other.keys_for(["ann"]) != vault.keys_for(["ann"])


def test_many_ids_many_keys(vault: Vault) -> None:
    keys = vault.keys_for(str(i) for i in range(100_000))
    assert len(set(keys)) == 100_000
    assert all(len(key) == 32 for key in keys)


def test_only_its_owner_may_read_it(tmp_path: Path, vault: Vault) -> None:
    mode = stat.S_IMODE((tmp_path / "vault.sqlite").stat().st_mode)
    assert mode == 0o600
    (tmp_path / "vault.sqlite").chmod(0o644)
    Vault(tmp_path / "vault.sqlite", SECRET)
    assert stat.S_IMODE((tmp_path / "vault.sqlite").stat().st_mode) == 0o600


def test_another_secret_does_not_open_it(tmp_path: Path, vault: Vault) -> None:
    with pytest.raises(VaultError, match="another secret"):
        Vault(tmp_path / "vault.sqlite", SECRET + b"!")


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VaultError, match="16 bytes"):
        Vault(tmp_path / "vault.sqlite", b"short")


def test_a_later_format_is_refused(tmp_path: Path, vault: Vault) -> None:
    with vault._transaction() as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(VaultError, match="format 99"):
        Vault(tmp_path / "vault.sqlite", SECRET)


def test_the_latest_delivery_wins_and_nothing_is_emptied(vault: Vault) -> None:
    vault.store([Identity("k", "ann", "Ann", "old@x", "1", "2024-01")])
    vault.store([Identity("k", "ann", None, "new@x", None, "2024-02")])
    vault.store([Identity("k", "ann", "Anna?", None, None, "2023-12")])
    assert tuple(vault.identities(["k", "unknown"])["k"])[:5] == ("k", "ann", "Ann", "new@x", "1")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from("xy"), st.integers(0, 3)),
        max_size=5,
    )
)
def test_the_order_of_storing_does_not_show(
    tmp_path_factory: pytest.TempPathFactory, deliveries: list[tuple[str | None, str, int]]
) -> None:
    seen = set()
    for order in (deliveries, deliveries[::-1], sorted(deliveries, key=repr)):
        vault = Vault(tmp_path_factory.mktemp("vault") / "v.sqlite", SECRET)
        for email, key, when in order:
            vault.store([Identity(key, key, None, email, None, str(when))])
        seen.add(tuple(sorted(tuple(i) for i in vault.identities(["x", "y"]).values())))
    assert len(seen) == 1


def test_two_ids_with_one_key_are_refused_and_nothing_is_stored(vault: Vault) -> None:
    vault.store([Identity("k", "ann")])
    vault.store([Identity("k", " ａｎｎ ")])  # the same id, written otherwise
    with pytest.raises(VaultError, match="share a customer_key"):
        vault.store([Identity("new", "bob"), Identity("k", "eve", email="eve@x")])
    assert set(vault.identities(["k", "new"])) == {"k"}
    assert vault.identities(["k"])["k"].email is None


def test_identities_of_many(vault: Vault) -> None:
    keys = vault.keys_for(str(i) for i in range(1_200))
    vault.store(Identity(key, str(i)) for i, key in enumerate(keys))
    found = vault.identities(keys)
    assert [found[key].customer_id for key in keys] == [str(i) for i in range(1_200)]


def test_identities_do_not_print_themselves() -> None:
    person = Identity("key", "ann", "Ann", "ann@x", "1", "d")
    assert "nn" not in f"{person} {person!r} {[person]}"


def _open(path: Path, gate: object, results: object) -> None:
    gate.wait()  # type: ignore[attr-defined]
    try:
        vault = Vault(path, SECRET)
        vault.store([Identity(vault.keys_for(["ann"])[0], "ann")])
        results.put("ok")  # type: ignore[attr-defined]
    except Exception as error:
        results.put(repr(error))  # type: ignore[attr-defined]


def test_processes_may_create_it_at_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    gate, results = fork.Barrier(4), fork.Queue()
    path = tmp_path / "vault.sqlite"
    workers = [fork.Process(target=_open, args=(path, gate, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=30) for _ in workers] == ["ok"] * 4
    for worker in workers:
        worker.join()
    assert len(Vault(path, SECRET).identities(Vault(path, SECRET).keys_for(["ann"]))) == 1
