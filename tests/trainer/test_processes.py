"""Of several ranks that ended, the one that is to blame is named."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from alexstream.trainer.distributed.processes import _find_cause


@dataclass
class Ended:
    """What is known of a rank's process: its exit code, its message, and whether it only lost another."""

    index: int
    code: int | None
    message: str = ""
    is_lost: bool = False

    @property
    def process(self):
        return SimpleNamespace(exitcode=self.code)


LOST = Ended(0, 1, "rank 0 lost another rank", is_lost=True)


@pytest.mark.parametrize(
    ("failed", "silent", "message"),
    [
        ([LOST, Ended(1, 1, "the disk is full")], [], "^the disk is full$"),
        ([Ended(1, 1, "the disk is full"), LOST], [], "^the disk is full$"),
        ([LOST, Ended(1, -9)], [], r"^rank 1 died \(SIGKILL\), .*--resume"),
        ([LOST, Ended(1, 3)], [], r"^rank 1 died \(exit code 3\), .*--resume"),
        ([LOST], [Ended(1, None)], r"^rank 1 did not answer for 30 s \(`timeout_s`\), .*--resume"),
        ([LOST], [Ended(1, None), Ended(2, None)], "^rank 1 and rank 2 did not answer for 30 s"),
        ([LOST], [], "^rank 0 lost another rank$"),
    ],
)
def test_the_cause_is_named(failed, silent, message):
    with pytest.raises(Exception, match=message):
        raise _find_cause(failed, silent, 30.0, "go on with --resume")


def test_a_rank_that_was_ended_for_memory_is_not_just_dead():
    told = str(
        _find_cause([LOST, Ended(1, -9)], [], 30.0, "go on with --resume", "memory was short: 1.0 GiB may be used")
    )
    assert told.startswith("rank 1 died (memory was short: 1.0 GiB may be used)") and "`batch_size`" in told
    assert "(exit code 3)" in str(
        _find_cause([Ended(1, 3)], [], 30.0, "go on with --resume", "memory was short: 1.0 GiB")
    )
