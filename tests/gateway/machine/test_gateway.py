"""The machine as a whole: garbage changes nothing, hostile delegates decide nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.chain.transaction import CommitUpdates, PostScores
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import RoundNumber, Signature
from headwater_protocol.messages.topics import Topics
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.records import REWARDS
from tests.support.gateway_support import LINGER, SHARD_0, Bench, gateway_task, make_payload


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def foreign_topics(bench: Bench) -> list[str]:
    topics, device = bench.topics, bench.devices[0].device
    update = topics.update(device)
    name = topics.root.split("/")[2]
    return [
        "",
        "/",
        "hw/1",
        "x" * 70_000,
        update + "/more",
        update.upper(),
        update.replace(name, "0" * 16),
        update.replace(SHARD_0, "shard-9"),
        update.replace("hw/1", "hw/2"),
        topics.round,
        topics.chunk(bench.shard.round.base, 0),
        topics.receipt(device),
        topics.status(device),
        topics.enroll("token"),
        f"{topics.root}/devices/{'0' * 63}/update",
        f"{topics.root}/devices/+/update",
        "\0\ud800",
    ]


def test_whatever_comes_on_other_topics_is_counted_and_forgotten(bench: Bench) -> None:
    honest = encode_record(bench.update(bench.devices[0]))
    topics = foreign_topics(bench)
    bench.published.clear()
    for topic in topics:
        for payload in (b"", b"\xff" * 100, honest):
            bench.send(topic, payload)
    assert bench.metrics.garbage == 3 * len(topics)
    assert bench.published == []
    bench.publish_all()
    bench.settle(1)
    assert [bench.reasons(device) for device in bench.devices] == [[ReasonCode.OK]] * 3


@contextmanager
def fresh_bench() -> Iterator[Bench]:
    with TemporaryDirectory() as folder:
        yield Bench(Path(folder), num_devices=2)


def mutated(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` with a few bytes replaced, inserted or cut."""
    place = st.integers(0, len(data))
    edit = st.tuples(place, st.integers(0, 3), st.binary(max_size=3))

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        changed = data
        for start, length, new in edits:
            changed = changed[:start] + new + changed[start + length :]
        return changed

    return st.lists(edit, min_size=1, max_size=4).map(apply)


@settings(max_examples=15)
@given(data=st.data())
def test_no_topic_and_no_bytes_raise_or_harm_an_honest_update(data: st.DataObject) -> None:
    with fresh_bench() as bench:
        victim, honest = bench.devices
        update = encode_record(bench.update(victim))
        topics = st.one_of(
            st.text(max_size=80),
            st.sampled_from(foreign_topics(bench)),
            st.sampled_from([bench.topics.update(device.device) for device in bench.devices]),
        )
        payloads = st.one_of(st.binary(max_size=300), mutated(update))
        messages = data.draw(st.lists(st.tuples(topics, payloads), max_size=25))
        for topic, payload in messages[: len(messages) // 2]:
            bench.send(topic, payload)
        bench.publish(bench.update(honest, make_payload(7)))
        for topic, payload in messages[len(messages) // 2 :]:
            bench.send(topic, payload)
        bench.settle(2)
        assert ReasonCode.OK in bench.reasons(honest)
        assert bench.shard.round.num_updates <= 2


def test_one_delegate_that_attests_another_digest_changes_nothing(tmp_path: Path) -> None:
    honest, hostile = Bench(tmp_path / "honest"), Bench(tmp_path / "hostile")
    liar = hostile.cast.validators[SHARD_0][0].validator
    hostile.model_of = lambda work, model: (
        work.base if work.validator == liar else model  # type: ignore[return-value]
    )
    for bench in (honest, hostile):
        bench.publish_all()
        bench.settle(6)
    assert honest.record().last_round == hostile.record().last_round == 2
    assert honest.record().model == hostile.record().model
    assert hostile.record().model != hostile.cast.genesis.task.initial_model


@pytest.mark.parametrize("absurd", [-10_000, 10_000])
def test_one_delegate_with_absurd_scores_changes_no_verdict(tmp_path: Path, absurd: int) -> None:
    """With four delegates the median holds against one, as does what is rejected and taken."""
    honest, hostile = Bench(tmp_path / "honest"), Bench(tmp_path / "hostile")
    bad = honest.devices[0].device
    liar = hostile.cast.validators[SHARD_0][0].validator
    honest.score_of = lambda work, commit: -3_000 if commit.device == bad else 4_000
    hostile.score_of = lambda work, commit: (
        absurd if work.validator == liar else honest.score_of(work, commit)
    )
    for bench in (honest, hostile):
        bench.publish_all()
        bench.settle(6)
    assert honest.record().model == hostile.record().model
    assert honest.metrics.round(SHARD_0, RoundNumber(1)).judged == (
        hostile.metrics.round(SHARD_0, RoundNumber(1)).judged
    )
    scores = [signed.transaction.body for signed in hostile.bodies(PostScores)]
    assert any(isinstance(body, PostScores) and absurd in body.scores for body in scores)


def test_delegates_that_are_silent_hold_nothing_up_for_long(tmp_path: Path) -> None:
    bench = Bench(tmp_path, task=gateway_task(score_ms=500, attest_ms=500))
    silent = bench.cast.validators[SHARD_0][0].validator
    bench.score_of = lambda work, commit: -10_001 if work.validator == silent else 5_000
    bench.publish_all()
    bench.settle(20)
    assert bench.record().last_round == 2
    total = sum(entry.total for _, entry in bench.shard.app.state.items(REWARDS))
    assert 0 < total <= bench.cast.genesis.task.round_budget


def test_gateway_that_commits_a_bad_signature_is_refused_and_counted(bench: Bench) -> None:
    """A gateway that does not check proposes what the ledger does not take."""
    device = bench.devices[0]
    forged = bench.update(device, signature=Signature(b"f" * 64))
    bench.kept = (object,)
    bench.publish(forged)
    bench.pass_ms(LINGER)
    bench.kept = ()
    (work,) = bench.worked
    bench.machine.on_taken_in(work, (ReasonCode.OK,), bench.now_ms)  # type: ignore[arg-type]
    bench.perform()
    assert len(bench.bodies(CommitUpdates)) == 1
    assert bench.metrics.refused_transactions == {ReasonCode.BAD_SIGNATURE: 1}
    assert bench.reasons(device) == [ReasonCode.BAD_SIGNATURE]
    bench.mine(SHARD_0)
    assert bench.shard.round.num_updates == 0
    bench.publish(bench.update(device))
    bench.settle(1)
    assert bench.reasons(device)[-1] is ReasonCode.OK


def test_two_shards_are_kept_apart(tmp_path: Path) -> None:
    bench = Bench(tmp_path, shards=("shard-0", "shard-1"))
    device = bench.devices[0]
    other = Topics(bench.cast.network, bench.cast.genesis.shards[1])
    bench.publish(bench.update(device), topic=other.update(device.device))
    bench.settle(1)
    # The claim names the shard, so the signature does not hold in the other one.
    assert bench.reasons(device) == [ReasonCode.BAD_SIGNATURE]
    assert bench.shard.round.num_updates == 0
