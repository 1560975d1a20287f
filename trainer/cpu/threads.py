"""Run compiled CPU kernels in as many threads as torch uses."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch


def run_in_threads(part: Callable[[slice], None], count: int, at_least: int = 1) -> None:
    """Call ``part``, which must release the GIL, on slices that make up ``range(count)``, in parallel.

    Each slice has ``at_least`` items or more. Raises what ``part`` raises.
    """
    num = max(1, min(torch.get_num_threads(), count // at_least))
    bounds = [count * i // num for i in range(num + 1)]
    waiting = []
    if num > 1:
        pool = _get_thread_pool(num - 1)
        waiting = [pool.submit(part, slice(a, b)) for a, b in pairwise(bounds[1:])]
    part(slice(0, bounds[1]))
    for one in waiting:
        one.result()


def as_array(x: torch.Tensor) -> Any:
    """Return a CPU tensor's memory as a NumPy array; bfloat16 as its uint16 bits."""
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).detach().numpy()


def compute_dtype(x: torch.Tensor) -> Any:
    """Return the NumPy type in which kernels compute with values like these: float32, or float64 for float64."""
    return torch.empty(0, dtype=torch.promote_types(x.dtype, torch.float32)).numpy().dtype.type


@lru_cache(maxsize=1)
def _get_thread_pool(num: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num, thread_name_prefix="alexstream")
