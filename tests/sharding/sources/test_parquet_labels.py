"""Labels of Parquet rows that stand for no class."""

import pyarrow.parquet as pq
import pytest

from tests.support import imagenet_miniature as mini
from tests.support.source_layouts import list_splits


@pytest.mark.parametrize("label", [-1, None])
def test_a_row_whose_label_is_no_class_is_excluded(tmp_path, label):
    rows = [(0, "a.png", b"x"), (label, "b.png", b"y"), (2, "c.png", b"z")]
    pq.write_table(mini.hub_table(rows), tmp_path / "train-00000-of-00001.parquet")
    found = list_splits(tmp_path)["train"]
    assert found.table.column("label").to_pylist() == [0, 2]
    assert found.excluded == (("train-00000-of-00001.parquet/b.png", "no label"),)
