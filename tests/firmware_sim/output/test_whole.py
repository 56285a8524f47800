"""Files appear whole or not at all, also on a disk that fills."""

import errno
import resource

import pytest

from headwater_firmware_sim.output.whole import TEMPORARY_SUFFIX, write_whole
from headwater_protocol.errors import ConfigError

LIMIT_BYTES = 50_000


@pytest.fixture
def small_disk():
    """No file of this process grows past the limit, as if the disk ended there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_all_files_appear(tmp_path):
    write_whole({tmp_path / "new/a": b"1", tmp_path / "b": lambda stream: stream.write(b"2")})
    assert (tmp_path / "new/a").read_bytes() == b"1"
    assert (tmp_path / "b").read_bytes() == b"2"
    assert not list(tmp_path.rglob(f"*{TEMPORARY_SUFFIX}"))


def test_a_file_as_large_as_the_disk_is_written(tmp_path, small_disk):
    write_whole({tmp_path / "a": bytes(LIMIT_BYTES)})
    assert (tmp_path / "a").stat().st_size == LIMIT_BYTES


def test_a_full_disk_leaves_the_old_files_and_says_the_fix(tmp_path, small_disk):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(ConfigError) as caught:
        write_whole({tmp_path / "a": b"new", tmp_path / "b": bytes(LIMIT_BYTES + 1)})
    assert "the disk is full" in str(caught.value)
    assert "free some space" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_no_space_left_is_told_as_a_full_disk(tmp_path):
    def fail(stream):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ConfigError, match="the disk is full"):
        write_whole({tmp_path / "a": fail})
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_a_file_is_named(tmp_path):
    (tmp_path / "taken").write_text("a letter")
    with pytest.raises(ConfigError, match=r"taken.*name a folder"):
        write_whole({tmp_path / "taken" / "a": b"1"})


def test_an_error_of_ours_leaves_nothing_either(tmp_path):
    def fail(stream):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_whole({tmp_path / "a": b"1", tmp_path / "b": fail})
    assert not list(tmp_path.iterdir())
