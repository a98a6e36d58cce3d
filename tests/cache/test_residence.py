"""Simulated placement against the store, and its price against arithmetic by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ditcache_rl.cache import TieredCache, next_uses
from ditcache_rl.cache.rates import Transfers, named_transfers
from ditcache_rl.cache.residence import Residence
from ditcache_rl.config import MACHINES
from ditcache_rl.instrument.history import SiteHistory
from ditcache_rl.types import Mode, Modes, Tier, Tiers

#: Numbers of an entry: a page of floats, so that slots of a slab are no larger.
NUMBERS = 1024
NBYTES = 4 * NUMBERS
SITES, STEPS = 3, 8


class Store:
    """The histories of a row of one, on a store with caps."""

    def __init__(self, room: dict[Tier, int], planned: Modes | None) -> None:
        host = room.get(Tier.HOST)
        self.cache = TieredCache(
            room[Tier.DEVICE] * NBYTES, None if host is None else host * NBYTES
        )
        uses = None if planned is None else next_uses(planned[:, None])
        self.sites = [
            SiteHistory(
                self.cache,
                0,
                0,
                site,
                1,
                visit=(site, SITES),
                uses=None if uses is None else uses[:, site],
            )
            for site in range(SITES)
        ]

    def step(self, step: int, modes: Modes, tiers: Tiers) -> list[int]:
        """Play a step as the runner does; return the effective modes."""
        found = []
        for history, mode, tier in zip(self.sites, modes, tiers, strict=True):
            effective = history.effective(np.array([mode], dtype=np.int8), step)
            if effective[0] != Mode.COMPUTE:
                history.estimate(effective, 1.0 - step / STEPS)
            elif tier != Tier.DROP:
                entry = torch.full((1, NUMBERS), float(step))
                history.record(entry, np.array([0]), step, 1.0 - step / STEPS, Tier(tier))
            found.append(int(effective[0]))
        return found

    def tiers(self) -> list[Tier]:
        """Return where the newest entry of every site lies."""
        found = []
        for history in self.sites:
            keys = history.keys(1)
            level = Tier.DROP
            if keys and self.cache.device.get(keys[0]) is not None:
                level = Tier.DEVICE
            elif keys:
                level = self.cache._inventory.level_of(keys[0]) or Tier.DROP
            found.append(level)
        return found


@given(seed=st.integers(0, 10**6), host=st.none() | st.integers(1, 8), known=st.booleans())
@settings(max_examples=150)
def test_entries_lie_where_the_store_puts_them(seed: int, host: int | None, known: bool) -> None:
    rng = np.random.default_rng(seed)
    modes = rng.integers(4, size=(STEPS, SITES)).astype(np.int8)
    modes[0] = 0
    tiers = rng.integers(4, size=(STEPS, SITES)).astype(np.int8)
    caps = rng.integers(6, size=STEPS)
    room = {Tier.DEVICE: int(caps[0])} | ({} if host is None else {Tier.HOST: host})
    planned = modes if known else None
    store = Store(room, planned)
    residence = Residence(SITES, room, Transfers(), planned=planned)
    try:
        for step in range(STEPS):
            store.cache.resize(Tier.DEVICE, int(caps[step]) * NBYTES)
            residence.resize(int(caps[step]))
            effective = store.step(step, modes[step], tiers[step])
            stay = residence.step(step, modes[step], tiers[step])

            assert stay.modes.tolist() == effective
            assert residence.tiers.tolist() == store.tiers()
            assert stay.held * NBYTES == store.cache.device.used_bytes
            assert residence.free_share == pytest.approx(store.cache.device.free_share)
    finally:
        store.cache.close()


def test_what_moves_is_counted_by_hand() -> None:
    transfers = Transfers(host_put=0.2, host_get=0.1, disk_put=3.0, disk_get=2.0)
    room = {Tier.DEVICE: 2, Tier.HOST: 8, Tier.DISK: 8}
    modes = np.array([[0, 0, 0], [1, 1, 1], [1, 1, 1]], dtype=np.int8)
    tiers = np.array([Tier.DEVICE, Tier.HOST, Tier.DISK], dtype=np.int8)
    residence = Residence(3, room, transfers)

    stays = [residence.step(step, modes[step], tiers) for step in range(2)]
    residence.resize(0)  # what lies on the device goes to the host
    stays.append(residence.step(2, modes[2], tiers))

    assert [stay.held for stay in stays] == [1, 1, 0]
    puts, gets = 0.2 + 3.0, 0.1 + 2.0
    assert [stay.moved for stay in stays] == pytest.approx([puts, gets, 0.2 + 0.1 + gets])
    assert residence.tiers.tolist() == [Tier.HOST, Tier.HOST, Tier.DISK]


def test_what_is_dropped_is_computed() -> None:
    residence = Residence(1, {Tier.DEVICE: 4}, Transfers())
    drop = np.array([Tier.DROP], dtype=np.int8)

    stays = [residence.step(step, np.array([min(step, 1)], np.int8), drop) for step in range(3)]

    assert [stay.modes.tolist() for stay in stays] == [[0], [0], [0]]
    assert [stay.held for stay in stays] == [0, 0, 0]


def test_what_has_no_tier_left_is_computed_and_comes_back() -> None:
    residence = Residence(1, {Tier.DEVICE: 1}, Transfers())
    device, reuse = np.array([Tier.DEVICE], dtype=np.int8), np.array([1], dtype=np.int8)
    residence.step(0, np.array([0], np.int8), device)

    residence.resize(0)
    lost = residence.step(1, reuse, device)
    residence.resize(1)
    kept = [residence.step(step, reuse, device) for step in (2, 3)]

    assert lost.modes.tolist() == [0]
    assert [stay.modes.tolist() for stay in kept] == [[0], [1]]


@pytest.mark.parametrize("name", MACHINES)
def test_every_machine_that_may_be_named_has_transfers(name: str) -> None:
    transfers = named_transfers(name)

    assert 0 < transfers.host_get < 1, "the host is faster than computing a block of that model"
    assert transfers.disk_get > transfers.host_get


def test_the_transfers_of_a_machine_follow_from_its_data_sheet() -> None:
    # 4608 tokens of 3072 numbers: 28.3 MB, 1.30e12 operations, half of 989.4e12 in a second.
    compute_s = (24 * 4608 * 3072**2 + 4 * 4608**2 * 3072) / 494.7e12
    host_s = 10e-6 + 4608 * 3072 * 2 / 51.2e9

    assert named_transfers("h100").host_get == pytest.approx(host_s / compute_s)
    assert round(host_s / compute_s, 2) == 0.21
