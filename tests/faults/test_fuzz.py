"""A short run of the fuzzer, of every target; ``python tests/faults/fuzz.py`` is the long one."""

from importlib.util import find_spec

import pytest

from tests.faults.fuzz import fuzz, names


@pytest.mark.parametrize(("is_dear", "count"), [(False, 20), (True, 3)])  # half a second an execution
def test_damaged_files_are_refused_in_one_line_or_read_rightly(is_dear, count, tmp_path):
    from tests.faults.targets import TARGETS

    targets = [name for name in names() if (TARGETS[name].cost >= 100) == is_dear]
    executions, _, _, broken = fuzz(targets, count, seed=2026, keep=tmp_path)
    assert targets and not broken and executions == count


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed (extra: fuzz)")
def test_inputs_that_coverage_guides_are_refused_in_one_line_or_read_rightly(tmp_path):
    executions, _, _, broken = fuzz(["manifest"], 2000, with_guidance=True, keep=tmp_path)
    assert not broken and executions == 2000
