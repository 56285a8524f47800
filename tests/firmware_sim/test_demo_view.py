"""What the demo prints where there is no terminal: rows of 80 columns under one head."""

import io
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from headwater_firmware_sim.demo.options import DemoOptions
from headwater_firmware_sim.demo.report import DemoReport, RoundReport
from headwater_firmware_sim.demo.view import TerminalView
from headwater_protocol.identifiers import ChainId, RoundNumber
from headwater_protocol.reasons import ReasonCode

SHARD = ChainId("shard-0")


def close(number: int, **rejected: int) -> RoundReport:
    return RoundReport(
        shard=SHARD,
        round=RoundNumber(number),
        epoch=0,
        accuracy=0.9391,
        received=30,
        accepted=12,
        rejected=Counter({ReasonCode(name): count for name, count in rejected.items()}),
        bytes_up=30_000,
        bytes_per_update=1_000,
        wall_ms=2_660,
    )


@pytest.fixture
def report() -> DemoReport:
    return DemoReport(
        num_devices=60, shards=(SHARD,), attackers=frozenset(), bits=8, seed=1, rounds=[]
    )


def test_each_round_is_a_row_and_the_head_comes_once(report: DemoReport, tmp_path: Path) -> None:
    output = io.StringIO()
    view = TerminalView(Console(file=output, width=80), DemoOptions(out=tmp_path))
    view.update(report)
    assert output.getvalue() == ""
    report.rounds.append(close(9))
    view.update(report)
    report.rounds.append(close(16, low_score=2, quarantined=13, stale_round=15))
    view.update(report)
    view.update(report)
    assert output.getvalue().splitlines() == [
        "shard   round accuracy accepted    s  rejected",
        "shard-0     9    0.939       12  2.7",
        "shard-0    16    0.939       12  2.7  low_score 2 quarantined 13 stale_round 15",
    ]
    assert max(map(len, output.getvalue().splitlines())) <= 80
