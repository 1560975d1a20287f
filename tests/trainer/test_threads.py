"""Work in threads: every part once, and an error is not lost."""

import numpy as np
import pytest
import torch

from alexstream.trainer.cpu.threads import as_array, compute_dtype, run_in_threads


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(("count", "at_least"), [(1, 1), (2, 1), (7, 1), (7, 3), (7, 100), (0, 1)])
def test_the_parts_make_up_the_whole(threads, count, at_least):
    seen = []
    run_in_threads(lambda part: seen.append(range(count)[part]), count, at_least)
    assert sorted(i for part in seen for i in part) == list(range(count))
    assert len(seen) == max(1, min(threads, count // at_least))


@pytest.mark.parametrize("wrong", [0, 6])
def test_an_error_in_any_part_is_raised(threads, wrong):
    def part(n):
        if wrong in range(7)[n]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_in_threads(part, 7)


def test_memory_is_shared_and_bfloat16_comes_as_its_bits():
    x = torch.zeros(3, requires_grad=True)
    as_array(x)[1] = 2.0
    assert x.tolist() == [0, 2, 0]
    assert as_array(torch.ones(1, dtype=torch.bfloat16)).tolist() == [0x3F80]
    assert compute_dtype(torch.ones(1, dtype=torch.bfloat16)) == compute_dtype(torch.ones(1)) == np.float32
    assert compute_dtype(torch.ones(1, dtype=torch.float64)) == np.float64
