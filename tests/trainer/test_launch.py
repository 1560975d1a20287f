"""How many processes a run has, on what, and which of them speaks."""

import os
from types import SimpleNamespace

import pytest
import torch

from alexstream.core import limits
from alexstream.pipeline.stream import ShardedData
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.trainer.distributed import launch
from alexstream.trainer.distributed.launch import (
    Rank,
    choose_device_type,
    count_local_processes,
    count_replicas,
    make_run_setting,
)
from alexstream.trainer.errors import TrainError
from alexstream.trainer.network.columns import Columns
from tests.support.small_dataset import Small

TORCHRUN = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture
def torchrun(monkeypatch):
    """Sets what torchrun sets."""

    def start(**changes):
        for name, value in {**TORCHRUN, **changes}.items():
            monkeypatch.setenv(name, value)

    for name in (*TORCHRUN, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return start


@pytest.mark.parametrize(
    ("gpus", "devices", "wanted", "chosen"),
    [
        (0, 1, "auto", "cpu"),
        (0, 2, "auto", "cpu"),
        (1, 1, "auto", "cuda"),
        (1, 2, "auto", "cpu"),  # one GPU is not enough for two columns
        (2, 2, "auto", "cuda"),
        (2, 2, "cpu", "cpu"),
        (1, 1, "cuda", "cuda"),
    ],
)
def test_gpus_are_taken_where_there_are_enough(monkeypatch, torchrun, gpus, devices, wanted, chosen):
    monkeypatch.setattr(launch, "count_gpus", lambda: gpus)
    assert choose_device_type(devices, wanted) == chosen


def test_what_this_machine_or_network_does_not_have_is_refused(monkeypatch, torchrun):
    monkeypatch.setattr(launch, "count_gpus", lambda: 1)
    with pytest.raises(TrainError, match="`device` cuda with `devices` 2: this machine has 1 GPU"):
        choose_device_type(2, "cuda")
    with pytest.raises(TrainError, match="received 2, but this network has one column"):
        choose_device_type(2, "cpu", columns=1)
    torchrun(LOCAL_WORLD_SIZE="2")
    with pytest.raises(TrainError, match="`devices` 2: this machine has 1 GPU"):
        choose_device_type(1, "cuda")


def test_processes_under_torchrun_make_up_replicas(torchrun):
    assert count_replicas(2) == 1 and count_local_processes(2) == 2 and launch.is_main_process()
    torchrun(LOCAL_WORLD_SIZE="3")
    assert count_replicas(2) == 2 and count_replicas(1) == 4 and count_local_processes(2) == 3
    assert launch.is_main_process()
    torchrun(RANK="1", WORLD_SIZE="3")
    assert not launch.is_main_process()
    with pytest.raises(TrainError, match="`devices` 2 under torchrun with 3 processes: expected a multiple of 2"):
        count_replicas(2)


def test_a_world_of_one_needs_no_torchrun(torchrun, monkeypatch):
    torchrun(WORLD_SIZE="1")
    assert launch.is_under_torchrun()
    monkeypatch.delenv("MASTER_PORT")
    assert not launch.is_under_torchrun()


def test_of_all_ranks_one_speaks_and_each_decodes_a_part_of_its_own():
    ranks = [Columns(index=i, count=2, replica=r, replicas=3) for r in range(3) for i in range(2)]
    assert [Rank(columns=c, device=torch.device("cpu")).is_main for c in ranks] == [True] + [False] * 5
    assert [(c.batch_slice.index, c.batch_slice.count) for c in ranks] == [(number, 6) for number in range(6)]


def test_ranks_share_the_cores(monkeypatch):
    given = []
    monkeypatch.setattr(limits, "count_cores", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    for count in (1, 2, 3, 8):
        launch._configure_device("cpu", 0, count)
    assert given == [7, 3, 2, 1]


def word_and_index(rank, word):
    return [word, rank.columns.index]


def test_results_come_back():
    threads = torch.get_num_threads()
    assert launch.collect_results(word_and_index, ("a",), 1, "cpu") == [["a", 0]]
    torch.set_num_threads(threads)


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_the_advice_of_a_run_knows_how_its_images_are_stored(tmp_path, encoding):
    small = Small(tmp_path)
    small.encode = EncodeRecipe(encoding=encoding)
    small.write()
    data = ShardedData(train=tmp_path, val=None)
    assert data.encoding == encoding
    stream = SimpleNamespace(encoding=data.encoding, facts=lambda: SimpleNamespace(order="global"))
    setting = make_run_setting(Rank(columns=Columns(), device=torch.device("cpu")), "fp32", stream)
    assert ("raw shards" in setting.suggest_faster_stream("decode")) == (encoding != "raw")


@pytest.mark.parametrize(("cores", "ranks", "processes"), [(8, 4, "2"), (2, 4, "1"), (64, 1, "32")])
def test_ranks_share_the_cores_that_compile(monkeypatch, cores, ranks, processes):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "")
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS")
    monkeypatch.setattr(launch, "count_cores", lambda: cores)
    monkeypatch.setattr(launch.torch, "set_num_threads", lambda number: None)
    launch._configure_device("cpu", 0, ranks)
    assert os.environ["TORCHINDUCTOR_COMPILE_THREADS"] == processes
