"""Examples from files: which columns are features, and which say whose a row is."""

from pathlib import Path

import numpy as np
import pytest

from headwater_firmware_sim.data.folder import load_folder


@pytest.mark.parametrize("by_user", [True, False])
def test_a_users_column_is_never_a_feature(tmp_path: Path, by_user: bool) -> None:
    (tmp_path / "a.csv").write_text("x,who,y,label\n1,ann,2,0\n3,bob,4,1\n5,ann,6,1\n")
    examples, users = load_folder(
        tmp_path, shape=(2,), num_classes=2, user_column="who", by_user=by_user
    )
    assert examples.features.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert examples.labels.tolist() == [0, 1, 1]
    assert (None if users is None else users.tolist()) == ([0, 1, 0] if by_user else None)


def test_rows_without_a_header_are_all_features(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1,2,0\n3,4,1\n")
    examples, users = load_folder(
        path, shape=(2,), num_classes=2, user_column="user", by_user=False
    )
    assert np.array_equal(examples.features, [[1, 2], [3, 4]])
    assert users is None
