"""What torch says when ranks do not meet, or when one is lost, becomes one line; other errors stay what they are."""

from dataclasses import replace
from datetime import timedelta

import pytest
import torch.distributed as dist

from alexstream.trainer.distributed import launch, rendezvous
from alexstream.trainer.distributed.rendezvous import RankInfo, translate_dist_errors, translate_rendezvous_errors
from alexstream.trainer.errors import LostRanksError, TrainError

PLACE = RankInfo(index=1, count=2, timeout_s=30)
LATE = ["Application timeout caused pair closure", "Timed out waiting 30000ms for recv operation to complete"]
LOST = [
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:5000",
    "Read error [127.0.0.1]:5000: Connection reset by peer",
    "writev [127.0.0.1]:5000: Broken pipe",
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Read error [10.0.0.2]:5000: No route to host",
]
OTHERS = [
    RuntimeError("shape '[2]' is invalid for input of size 3"),
    ValueError("gloo"),
    RuntimeError("[enforce fail at /third_party/gloo/gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes"),
]
NO_INTERFACE = (
    "[enforce fail at /__w/pytorch/third_party/gloo/gloo/transport/tcp/device.cc:84] ifa != nullptr. "
    "Unable to find address for: eth9\nframe #0"
)


@pytest.fixture
def place(tmp_path):
    """A rank whose run has a checkpoint to go on from."""
    (tmp_path / "checkpoint-00000003.pt").touch()
    return replace(PLACE, folder=tmp_path)


@pytest.mark.parametrize("text", LATE)
def test_a_timeout_names_the_seconds(text, place):
    with (
        pytest.raises(LostRanksError, match=r"rank 1 heard nothing from another rank for 30 s .*--resume"),
        translate_dist_errors(place),
    ):
        raise RuntimeError(text)


@pytest.mark.parametrize("error", [*map(RuntimeError, LOST), dist.DistBackendError("NCCL error")])
def test_a_connection_that_ends_is_a_rank_that_is_lost(error, place):
    with pytest.raises(LostRanksError, match=r"rank 1 lost another rank, .*--resume"), translate_dist_errors(place):
        raise error


@pytest.mark.parametrize("error", OTHERS)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as told, translate_dist_errors(PLACE):
        raise error
    assert told.value is error


@pytest.mark.parametrize("index", range(6))
def test_consecutive_ranks_are_the_columns_of_a_replica(monkeypatch, index):
    """Six ranks, two columns: replicas (0, 1), (2, 3), (4, 5); gradients between (0, 2, 4) and (1, 3, 5)."""
    made = []

    def new_group(ranks, timeout):
        made.append((tuple(ranks), timeout.total_seconds()))
        return len(made), tuple(ranks)

    monkeypatch.setattr(dist, "new_group", new_group)
    columns = rendezvous._make_columns(2, RankInfo(index=index, count=6, timeout_s=30), timedelta(seconds=40))
    assert (columns.index, columns.count) == (index % 2, 2)
    assert (columns.replica, columns.replicas) == (index // 2, 3)
    replica = ((0, 1), (2, 3), (4, 5))[index // 2]
    assert columns.group[1] == columns.data_group[1] == replica and columns.group != columns.data_group
    assert columns.replica_group[1] == ((0, 2, 4), (1, 3, 5))[index % 2]
    # Every rank makes every group, in one order: torch asks for that.
    assert [ranks for ranks, _ in made] == [(0, 1), (2, 3), (4, 5)] * 2 + [(0, 2, 4), (1, 3, 5)]
    assert {seconds for _, seconds in made} == {40.0} and columns.timeout_s == 30


@pytest.mark.parametrize("text", [LATE[0], LOST[0]])
def test_nobody_is_told_to_resume_a_run_without_a_checkpoint(text, tmp_path):
    for named in (translate_dist_errors, translate_rendezvous_errors):
        with pytest.raises(LostRanksError, match=r"start it again$") as told, named(replace(PLACE, folder=tmp_path)):
            raise RuntimeError(text)
        assert "--resume" not in str(told.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError(NO_INTERFACE), "ifa != nullptr. Unable to find address for: eth9;"),
        (RuntimeError("Cannot resolve 127.0.0.300 to a (local) address"), "Cannot resolve 127.0.0.300"),
        (
            dist.DistNetworkError("The server socket has failed to listen on any local network address. EADDRINUSE"),
            "EADDR",
        ),
    ],
)
def test_ranks_that_never_met_are_told_in_the_librarys_own_first_line(error, said, place):
    with (
        pytest.raises(TrainError, match="rank 1 did not meet the other ranks: ") as told,
        translate_rendezvous_errors(place),
    ):
        raise error
    text = str(told.value)
    assert said in text and "--resume" not in text and "lost" not in text and "\n" not in text
    assert not isinstance(told.value, LostRanksError), "a lost rank's message is passed over for the cause"


def nothing(rank):
    """What the ranks of these tests do."""


def test_an_interface_that_there_is_not_is_named(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth9")
    with pytest.raises(TrainError, match=r"^rank [01] did not meet the other ranks: .*eth9") as told:
        launch.run_on_ranks(nothing, (), 2, "cpu")
    assert "resume" not in str(told.value)


WHOLE = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MASTER_PORT", "tcp://10.0.0.1:29500"), ("MASTER_PORT", "0"), ("MASTER_PORT", "65536"), ("MASTER_PORT", ""),
        ("RANK", "x"), ("RANK", "2"), ("RANK", "-1"), ("RANK", ""), ("RANK", "1.0"), ("RANK", "²"),
        ("WORLD_SIZE", "0"), ("WORLD_SIZE", "two"), ("WORLD_SIZE", "9" * 30), ("LOCAL_RANK", "2"), ("LOCAL_RANK", "x"),
        ("LOCAL_WORLD_SIZE", "3"), ("LOCAL_WORLD_SIZE", "0"), ("MASTER_ADDR", ""),
    ],
)  # fmt: skip
def test_what_torchrun_does_not_set_is_one_line(name, value, monkeypatch):
    for known, good in {**WHOLE, name: value}.items():
        monkeypatch.setenv(known, good)
    for ask in (launch.is_main_process, lambda: launch.count_local_processes(1), lambda: launch.count_replicas(1)):
        with pytest.raises(TrainError, match=f"^{name}: received .*expected .*unset RANK, WORLD_SIZE") as told:
            ask()
        assert repr(value) in str(told.value) and "\n" not in str(told.value)


def test_torchruns_own_values_are_taken_as_they_are(monkeypatch):
    for name, value in {**WHOLE, "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert not launch.is_main_process() and launch.count_local_processes(1) == 2 and launch.count_replicas(2) == 1


ONE_OF_SEVERAL = [
    {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "pod-0", "MASTER_PORT": "23456"},  # Kubeflow's PyTorchJob
    {"RANK": "1"},
    {"LOCAL_RANK": "1"},
    {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
    {"WORLD_SIZE": " 2 "},
    {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"},
    {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"},
    {"SLURM_PROCID": "1"},
    {"ENVIRONMENT": "BATCH", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"},  # srun in it
    {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"},
    {"PMI_SIZE": "2", "PMI_RANK": "0"},
]
ALONE = [
    {},
    {"SLURM_JOB_ID": "7"},
    {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},  # srun --ntasks 1 in a larger job
    {"SLURM_NTASKS": "2"},  # a shell of salloc
    {"ENVIRONMENT": "BATCH", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"},  # a job's own script
    {"MASTER_ADDR": "pod-0", "MASTER_PORT": "tcp://10.0.0.1:29500"},
    {"RANK": "0", "WORLD_SIZE": "1"},
    {"RANK": "captain"},
]


@pytest.fixture
def nothing_set(monkeypatch):
    for name in (*WHOLE, *launch._LAUNCHER_VARIABLES, "SLURM_JOB_ID", "SLURM_NTASKS", "ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("variables", ONE_OF_SEVERAL)
def test_one_of_several_that_is_not_told_which_does_not_train_alone(variables, nothing_set, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for ask in (launch.is_main_process, lambda: launch.count_local_processes(1), lambda: launch.count_replicas(1)):
        with pytest.raises(
            TrainError, match=r"several processes, but (.* and .* are|\w+ is) not set; .*torchrun.*unset"
        ) as told:
            ask()
        assert "\n" not in str(told.value)
    # What it says to unset is enough.
    for name in str(told.value).partition("or unset ")[2].partition(" to train")[0].split(" and "):
        monkeypatch.delenv(name)
    assert launch.is_main_process()


@pytest.mark.parametrize("variables", ALONE)
def test_one_process_trains_alone_whatever_is_left_in_its_environment(variables, nothing_set, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not launch.is_under_torchrun() and launch.is_main_process() and launch.count_replicas(1) == 1
