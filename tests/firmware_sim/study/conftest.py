"""A small grid of four seeds."""

import pytest


@pytest.fixture
def grid_file(tmp_path):
    (tmp_path / "small.toml").write_text('name = "small"\ndevices = 8\nrounds = 2\n')
    path = tmp_path / "grid.toml"
    path.write_text('scenario = "small.toml"\n[grid]\nseed = [1, 2, 3, 4]\n')
    return path
