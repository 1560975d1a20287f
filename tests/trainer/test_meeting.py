"""What torch says when another rank is lost becomes one line; other errors stay what they are."""

import pytest
import torch.distributed as dist

from trainer.errors import LostRanksError
from trainer.meeting import Place, losses_named

PLACE = Place(index=1, count=2, timeout_s=30)
LATE = ["Application timeout caused pair closure", "Timed out waiting 30000ms for recv operation to complete"]
LOST = [
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:5000",
    "Read error [127.0.0.1]:5000: Connection reset by peer",
    "writev [127.0.0.1]:5000: Broken pipe",
]


@pytest.mark.parametrize("text", LATE)
def test_a_timeout_names_the_seconds(text):
    with (
        pytest.raises(LostRanksError, match=r"rank 1 heard nothing from another rank for 30 s .*--resume"),
        losses_named(PLACE),
    ):
        raise RuntimeError(text)


@pytest.mark.parametrize("error", [*map(RuntimeError, LOST), dist.DistBackendError("NCCL error")])
def test_a_connection_that_ends_is_a_rank_that_is_lost(error):
    with pytest.raises(LostRanksError, match=r"rank 1 lost another rank, .*--resume"), losses_named(PLACE):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shape '[2]' is invalid for input of size 3"), ValueError("gloo")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as told, losses_named(PLACE):
        raise error
    assert told.value is error
