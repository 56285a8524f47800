"""What a network of processes finds and leaves behind."""

import signal
from pathlib import Path

import pytest

from headwater_firmware_sim.machines.cli import ending_cleanly
from headwater_firmware_sim.machines.network import find_mounts

TABLE = """\
22 27 0:21 / /proc rw,nosuid shared:5 - proc proc rw
98 27 0:51 / {out}/net/gateway-2/data rw,relatime - tmpfs tmpfs rw,size=30408k
99 27 0:52 / {out}/my\\040disk rw,relatime - tmpfs tmpfs rw
97 27 0:50 / {out}-other/data rw,relatime - tmpfs tmpfs rw
"""


def test_what_is_mounted_in_a_folder_is_found_and_nothing_else(tmp_path: Path) -> None:
    out, table = tmp_path / "chaos", tmp_path / "mountinfo"
    table.write_text(TABLE.format(out=out), encoding="utf-8")
    assert find_mounts(out, table=table) == [out / "net/gateway-2/data", out / "my disk"]


def test_a_machine_without_a_table_of_mounts_has_none_to_find(tmp_path: Path) -> None:
    assert find_mounts(tmp_path, table=tmp_path / "missing") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_any_signal_ends_a_network_as_ctrl_c_does_and_no_longer_than_it_runs(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), ending_cleanly():
        signal.raise_signal(number)
    assert signal.getsignal(number) == before
