"""What a server knows of data keys, and for how long."""

import pytest

from sessiond_server.encryption.envelope import Kind
from sessiond_server.encryption.keyring import MOST_TENANTS, TRUSTED_SECONDS, Keyring
from sessiond_server.errors import StoreUnavailable, TenantKeyDestroyed, TenantKeyUnavailable
from tests.support.encryption import MemoryKeys, keyring, local_keys
from tests.support.waiting import until


async def test_the_first_write_makes_a_key_and_others_use_it() -> None:
    store = MemoryKeys()
    one, other = keyring(store), keyring(store)
    assert (await one.of("acme")).active is None
    first = (await one.sealing("acme")).active
    assert first is not None
    sealed = first.seal(Kind.RUN, "s", 1, b"words")
    second = (await other.sealing("acme")).active
    assert second is not None
    assert second.opened(Kind.RUN, "s", 1, sealed) == b"words"
    assert (await one.sealing("globex")).active is not first


async def test_a_tenant_is_read_once() -> None:
    store = MemoryKeys()
    ring = keyring(store)
    await ring.sealing("acme")
    reads = store.reads
    for _ in range(10):
        assert ring.known("acme") is await ring.of("acme")
    assert store.reads == reads


async def test_a_rotated_key_seals_and_the_old_one_opens() -> None:
    store = MemoryKeys()
    async with keyring(store) as ring:
        old = (await ring.sealing("acme")).active
        assert old is not None
        sealed = old.seal(Kind.RUN, "s", 1, b"words")
        await store.rotate("acme")
        await until(lambda: ring.known("acme") is None)
        keys = await ring.sealing("acme")
        assert keys.active is not None
        assert keys.active.id != old.id
        assert keys.by_id[old.id].opened(Kind.RUN, "s", 1, sealed) == b"words"
        assert keys.first is keys.by_id[old.id]


async def test_a_destroyed_key_is_refused_soon_and_for_good() -> None:
    store = MemoryKeys()
    async with keyring(store) as ring:
        await ring.sealing("acme")
        store.shred("acme")
        await until(lambda: ring.known("acme") is None)
        for call in (ring.of, ring.sealing):
            with pytest.raises(TenantKeyDestroyed):
                await call("acme")
        assert ring.closed() == ["acme"]
        assert list(await ring.refusals(["acme", "globex"])) == ["acme"]


async def test_a_server_that_cannot_look_stops_trusting_what_it_knows() -> None:
    now = 1000.0
    store = MemoryKeys()
    ring = Keyring(store, local_keys(), clock=lambda: now)
    await ring.sealing("acme")
    now += TRUSTED_SECONDS - 0.1
    assert ring.known("acme") is not None
    now += 0.2
    assert ring.known("acme") is None

    async def away(since: int) -> tuple[int, list[str]]:
        raise StoreUnavailable

    store.changed = away  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await ring.of("acme")


async def test_a_key_that_cannot_be_unwrapped_is_of_its_tenant_only() -> None:
    store = MemoryKeys()
    await keyring(store, "old").sealing("acme")
    ring = keyring(store, "new")
    refused = await ring.refusals(["acme", "globex"])
    assert {tenant: type(error) for tenant, error in refused.items()} == {"acme": TenantKeyUnavailable}
    assert store.stored["acme"][0].wrapped is not None


async def test_as_many_tenants_are_kept_as_may_be() -> None:
    ring = keyring()
    for number in range(MOST_TENANTS + 3):
        await ring.of(f"t{number}")
    assert ring.known("t2") is None
    assert ring.known("t3") is not None
