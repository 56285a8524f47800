"""The same seed gives the same bytes, whatever the interpreter's own hashing does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.test_examples import run_small

CODE = """
from tests.simulation.test_examples import run_small
import hashlib
from headwater_protocol.encoding.record import encode_record
from headwater_firmware_sim.virtual.folder import furthest_disk

run, result = run_small({name!r})
text = hashlib.sha256()
for chain in ("main", *run.stage.plan.genesis.shards):
    for final in furthest_disk(run, chain).blocks:
        text.update(encode_record(final.block) + encode_record(final.certificate))
print(result.final.main_chain_digest, text.hexdigest())
"""


def run_in_process(name: str, hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(name=name)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    return done.stdout


@pytest.mark.parametrize("name", ["rural-lossy", "split-gateways"])
def test_ledgers_are_equal_byte_for_byte_under_any_hash_seed(name: str) -> None:
    assert run_in_process(name, "0") == run_in_process(name, "4242")


def test_another_seed_gives_other_ledgers() -> None:
    _, first = run_small("own-data")
    again_run, again = run_small("own-data")
    assert first.final == again.final
    assert first.device_rounds == again.device_rounds
    assert again_run.elapsed_ms == first.virtual_ms
