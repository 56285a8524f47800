"""The log: a line a round, a checkpoint and a merge, each once."""

from pathlib import Path

import pytest

from headwater_gateway.journal import Journal, is_complete
from headwater_protocol.identifiers import MAIN_CHAIN
from headwater_shard.mainchain.staking.election import get_elected
from tests.support.gateway_support import SHARD_0, Bench, gateway_task, make_payload


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, task=gateway_task(rounds=2))


def make_journal(bench: Bench) -> Journal:
    states = {chain: driven.app.state for chain, driven in bench.chains.items()}
    return Journal(states, bench.metrics)


def note(journal: Journal, bench: Bench) -> list[dict[str, str]]:
    return [
        dict(pair.split("=", 1) for pair in line.split(" "))
        for chain, driven in sorted(bench.chains.items())
        for line in journal.note(chain, driven.app.state)
    ]


def run_round(bench: Bench) -> None:
    bench.publish_all()
    bench.settle(10)


def test_round_tells_what_was_accepted_and_why_the_rest_was_not(bench: Bench) -> None:
    journal = make_journal(bench)
    bad, forger, good = bench.devices
    bench.score_of = lambda work, commit: -1 if commit.device == bad.device else 1_000
    bench.publish(bench.update(bad))
    bench.publish(bench.update(good, make_payload(2)))
    bench.publish(bench.update(forger, signature=b"f" * 64))
    bench.settle(1)
    bench.publish(bench.update(forger, make_payload(3)))
    bench.settle(10)
    (line,) = note(journal, bench)
    assert line["event"] == "round"
    assert (line["shard"], line["round"]) == (SHARD_0, "1")
    assert (line["accepted"], line["updates"], line["received"]) == ("2", "3", "4")
    assert line["rejected"] == "2"
    assert line["reasons"] == "bad_signature:1,low_score:1"


def test_each_thing_is_told_once_and_nothing_old_after_a_restart(bench: Bench) -> None:
    journal = make_journal(bench)
    run_round(bench)
    first = note(journal, bench)
    assert note(journal, bench) == []
    restarted = make_journal(bench)
    run_round(bench)
    run_round(bench)
    second = note(restarted, bench)
    assert [line["event"] for line in first] == ["round"]
    assert [line["event"] for line in second] == [
        "checkpoint",
        "merge",
        "complete",
        "round",
        "finished",
    ]
    assert second == note(journal, bench)
    assert is_complete(bench.chains[MAIN_CHAIN].app.state)
    assert note(make_journal(bench), bench) == []


def test_nothing_is_complete_before_the_last_epoch_has_begun(bench: Bench) -> None:
    main = bench.chains[MAIN_CHAIN]
    journal = make_journal(bench)
    for _ in range(3):
        run_round(bench)
    assert {"event": "complete", "epoch": "1"} in note(journal, bench)
    (electing,) = [state for state in main.states if get_elected(state) is not None]
    handed_over = main.states[main.states.index(electing) + 1]
    assert not is_complete(electing)
    assert is_complete(handed_over)
