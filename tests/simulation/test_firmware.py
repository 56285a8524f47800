"""The simulated device: power, flash, battery, sleep, clock, and the wires around it."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from headwater_agent.state import OutboxEntry, Residual
from headwater_firmware_sim.results import RunResult
from headwater_firmware_sim.scenario.reader import parse_scenario
from headwater_firmware_sim.stage import make_stage
from headwater_firmware_sim.virtual.conditions import Conditions
from headwater_firmware_sim.virtual.folder import furthest_disk
from headwater_firmware_sim.virtual.run import VirtualRun
from headwater_firmware_sim.virtual.spill import FlashSpill, MessageSpill
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import MAIN_CHAIN, RoundNumber, TaskId, TimeMs

HEAD = 'name = "x"\ndevices = 6\nrounds = 2\n[network]\nshards = 1\n[data]\nexamples = 4\n'


def run_text(text: str, *, head: str = HEAD) -> tuple[VirtualRun, RunResult]:
    run = VirtualRun(make_stage(parse_scenario(head + text), folder=Path()))
    run.run()
    return run, run.result()


def test_power_cuts_within_writes_neither_stop_a_device_nor_lose_a_round() -> None:
    _, result = run_text('[task]\ncollect_s = 600.0\n[[faults]]\nkind = "torn_write"\nrate = 0.2\n')
    assert result.final.is_complete
    assert sum(row.torn_writes for row in result.fleet) > 5
    assert sum(row.boots for row in result.fleet) > 6 + 5
    assert all(row.updates == 6 for row in result.rounds)


def test_a_hung_training_ends_in_a_reset_and_is_done_again() -> None:
    _, result = run_text('[task]\ncollect_s = 600.0\n[[faults]]\nkind = "watchdog"\nrate = 0.5\n')
    assert result.counts["watchdog"] > 0
    assert all(row.updates == 6 for row in result.rounds)


def test_an_empty_battery_ends_the_round_and_a_charged_one_takes_part_again() -> None:
    _, result = run_text(
        "[task]\ncollect_s = 60.0\n"
        '[[fleet]]\nname = "b"\nsteps_per_s = 0.1\nbattery_j = 20.0\ntrain_w = 3.0\n'
        "charge_w = 1.5\nidle_w = 0.1\n"
    )
    assert sum(row.brownouts for row in result.fleet) > 0
    assert result.final.is_complete


def test_a_device_without_charger_stays_off_once_it_is_empty() -> None:
    run, result = run_text(
        "[task]\ncollect_s = 20.0\n"
        '[[fleet]]\nname = "b"\nsteps_per_s = 0.1\nbattery_j = 1.0\ntrain_w = 3.0\n'
    )
    assert not any(device.is_on for device in run.devices)
    assert all(row.updates == 0 for row in result.rounds)
    assert result.final.is_complete


def test_devices_on_a_duty_cycle_and_with_wrong_clocks_take_part() -> None:
    _, result = run_text(
        "[task]\ncollect_s = 300.0\n"
        '[[fleet]]\nname = "d"\nawake_s = 3.0\nasleep_s = 4.0\nsteps_per_s = 0.1\n'
        "clock_offset_s = 3.0\nclock_drift_ppm = 500.0\n"
    )
    assert sum(row.boots for row in result.fleet) > 12
    assert sum(row.accepted for row in result.rounds) == 12


def test_a_program_too_large_for_the_memory_is_refused_by_the_device() -> None:
    _, result = run_text('[[fleet]]\nname = "tiny"\nmemory_mb = 0.02\n[task]\ncollect_s = 5.0\n')
    assert all(row.signed == 0 for row in result.fleet)
    assert result.final.is_complete


def test_a_restarted_broker_that_forgot_everything_is_filled_again() -> None:
    _, result = run_text(
        "[task]\ncollect_s = 120.0\n"
        '[[fleet]]\nname = "slow"\nsteps_per_s = 0.1\n'
        '[[faults]]\nkind = "broker_loss"\nat_s = 4.0\nfor_s = 20.0\n'
    )
    assert all(row.updates == 6 for row in result.rounds)


def test_a_gateway_that_crashes_within_a_round_goes_on_from_its_disk() -> None:
    _, result = run_text(
        "[task]\ncollect_s = 120.0\n"
        '[[fleet]]\nname = "slow"\nsteps_per_s = 0.1\n'
        '[[faults]]\nkind = "gateway_crash"\nat_s = 4.0\nfor_s = 20.0\n'
    )
    assert result.counts["gateway_crash"] == 1
    assert all(row.updates == 6 for row in result.rounds)


@pytest.mark.parametrize("kind", ["sign_flip", "gaussian", "inner_product", "sybil"])
def test_attackers_are_refused_and_earn_nothing(kind: str) -> None:
    text = f'[task]\nlocal_epochs = 4\n[[attackers]]\nkind = "{kind}"\ncount = 1\n'
    _, result = run_text(text, head=HEAD.replace("rounds = 2", "rounds = 3"))
    hostile = [row for row in result.fleet if row.attack == kind]
    honest = [row for row in result.fleet if row.attack == "none"]
    assert len(hostile) == 1
    assert hostile[0].reward < min(row.reward for row in honest)


def test_lost_messages_have_no_copy_and_repeated_ones_two() -> None:
    rng = random.Random(1)
    assert Conditions(loss=1.0).plan(rng, delay_ms=5) == ()
    assert len(Conditions(duplicate=1.0).plan(rng, delay_ms=5)) == 2
    assert Conditions().plan(rng, delay_ms=5) == (5,)
    assert Conditions().plan(rng, delay_ms=5, loss=1.0) == ()
    cut = Conditions(cut=frozenset({0, 1}))
    assert cut.connects(0, 1)
    assert not cut.connects(1, 2)


def test_a_spilled_residual_reads_as_before_until_a_newer_one_takes_its_place() -> None:
    spill = FlashSpill()
    first = Residual(task=TaskId("t"), values=b"a" * 8)
    spilled = spill.put_residual(3, first)
    assert first.values == b"a" * 8
    assert (spilled.task, spilled.values) == ("t", b"a" * 8)
    spill.put_residual(4, Residual(task=TaskId("t"), values=b"c" * 8))
    assert spilled.values == b"a" * 8
    assert spill.put_residual(3, Residual(task=TaskId("u"), values=b"b" * 4)).values == b"b" * 4
    with pytest.raises(LookupError, match="device 3 has written something newer"):
        _ = spilled.values
    large = Residual(task=TaskId("t"), values=bytes(1_000_000))
    assert spill.put_residual(3, large) is large
    spill.close()


def test_a_spilled_update_reads_as_before_and_its_copies_too() -> None:
    spill = FlashSpill()
    entry = OutboxEntry(
        round=RoundNumber(1),
        task=TaskId("t"),
        payload=blob_digest(b"payload"),
        update=b"u" * 10,
        deadline_ms=TimeMs(5),
        verdict_until_ms=TimeMs(9),
        is_held=False,
        tensor_sizes=(3,),
        bits=8,
        fraction_bits=20,
        delta_norm_units=7,
    )
    spilled = spill.put_outbox(3, entry)
    assert type(spilled) is not OutboxEntry
    assert encode_record(spilled) == encode_record(entry)
    held = replace(spilled, is_held=True)
    assert (held.is_held, held.update, held.payload) == (True, entry.update, entry.payload)
    again = spill.put_outbox(3, held)
    assert (again.is_held, again.update) == (True, entry.update)
    # What `replace` made holds its own; the one before it is gone from the slot.
    assert held.update == entry.update
    with pytest.raises(LookupError, match="something newer"):
        _ = spilled.update
    spill.close()


def test_messages_under_way_are_read_back_in_any_order_and_their_file_begins_anew() -> None:
    air = MessageSpill()
    places = [air.put(payload) for payload in (b"a", b"bb", b"ccc")]
    assert [air.take(place) for place in reversed(places)] == [b"ccc", b"bb", b"a"]
    assert air.put(b"dddd") == (0, 4)
    assert air.take((0, 4)) == b"dddd"
    air.close()


SPILLED = """
[task]
collect_s = 120.0
[[faults]]
kind = "torn_write"
rate = 0.1
[[faults]]
kind = "reboot"
rate = 100.0
"""


def test_a_fleet_that_spills_has_the_ledgers_of_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, plain = run_text(SPILLED)
    monkeypatch.setattr("headwater_firmware_sim.virtual.run.LARGE_FLEET", 1)
    monkeypatch.setattr("headwater_firmware_sim.virtual.spill.MAX_RECENT_BLOCKS", 2)
    run, spilled = run_text(SPILLED)
    assert run.world.flash is not None
    assert sum(row.torn_writes for row in spilled.fleet) > 0
    assert spilled.final == plain.final
    assert spilled.fleet == plain.fleet
    for chain in (MAIN_CHAIN, *run.stage.plan.genesis.shards):
        blocks = furthest_disk(run, chain).blocks
        assert len(blocks) > 2
        assert list(blocks) == blocks[:] == furthest_disk(before, chain).blocks
    residuals = [device.state.residual for device in run.devices]
    assert all(type(residual).__name__ == "SpilledResidual" for residual in residuals)
