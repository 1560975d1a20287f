"""Launch the ranks of a run: assign each its column, replica and device, and run a function in it.

Without torchrun there is one process, or one for each column, started here. Under torchrun this process is one rank;
world size = replicas × columns, and consecutive ranks hold the columns of one replica, on any number of nodes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from alexstream.core.limits import count_cores, default_num_threads, explain_process_limit, raise_oom_score
from alexstream.core.parameters import list_names, to_display, use_names
from alexstream.core.processes import exit_with_parent
from alexstream.core.progress import tell_activities, tells_activities
from alexstream.core.standard_streams import guard_streams
from alexstream.core.text import count_of
from alexstream.pipeline.errors import AlexstreamError
from alexstream.trainer.cpu.memory import keep_freed_memory
from alexstream.trainer.distributed.processes import restore_interrupts, run_rank_processes
from alexstream.trainer.distributed.rendezvous import (
    RANK_TIMEOUT_S,
    RankInfo,
    init_process_groups,
    start_watchdog,
    translate_dist_errors,
    translate_rendezvous_errors,
)
from alexstream.trainer.distributed.run_lock import RunLock
from alexstream.trainer.distributed.stop import StopRequest, stop_rank_on_interrupt
from alexstream.trainer.distributed.store import StoreAddress, serve_local_store
from alexstream.trainer.errors import LostRanksError, TrainError
from alexstream.trainer.network.columns import Columns
from alexstream.trainer.network.geometry import NUM_COLUMNS
from alexstream.trainer.verdict import RunSetting

_TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # that torchrun sets
# Variables that launchers set in the processes they start (torchrun, Slurm's srun, Open MPI, MPICH), each with the
# largest value that it has in a process started alone.
_LAUNCHER_VARIABLES = {
    "WORLD_SIZE": 1,
    "RANK": 0,
    "LOCAL_RANK": 0,
    "LOCAL_WORLD_SIZE": 1,
    "SLURM_STEP_NUM_TASKS": 1,
    "SLURM_PROCID": 0,
    "OMPI_COMM_WORLD_SIZE": 1,
    "PMI_SIZE": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """One process of a run: its position among the others (``columns``) and its device."""

    columns: Columns
    device: torch.device
    stop: StopRequest | None = None  # of the ranks of this machine, if they can be asked to stop

    @property
    def is_main(self) -> bool:
        """True for rank 0, the one that prints and writes."""
        return self.columns.index == 0 and self.columns.replica == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What the processes of a run share beside their work.

    Args:
        timeout_s: The longest wait of a rank for another one, in seconds.
        lock: The lock of the run folder. Ranks do not read it: one that was sent it holds it until it ends.
        folder: The run folder, named in advice on how to continue.
        stop: A request to stop, which the ranks of this machine follow; torchrun's do not.
    """

    timeout_s: float = RANK_TIMEOUT_S
    lock: RunLock | None = None
    folder: Path | None = None
    stop: StopRequest | None = None


def count_local_processes(num_devices: int) -> int:
    """Return the number of processes of the run on this machine."""
    return _read_torchrun_world().local_size if is_under_torchrun() else num_devices


def choose_device_type(num_devices: int, wanted: str = "auto", columns: int = NUM_COLUMNS) -> str:
    """Return ``cuda`` if ``wanted`` allows it and there are enough GPUs, else ``cpu``.

    Raises TrainError for a number of devices that does not fit a network of ``columns`` columns, or if ``cuda`` is
    wanted and there are too few GPUs.
    """
    if num_devices not in (1, NUM_COLUMNS):
        raise TrainError(
            f"`devices`: received {num_devices}, expected 1 (both columns in one process) or 2 (one column "
            "per process); the network has two columns"
        )
    if num_devices > columns:
        raise TrainError(f"`devices`: received {num_devices}, but this network has one column; expected 1")
    gpus = count_gpus()
    num_devices = count_local_processes(num_devices)
    if wanted == "cuda" and gpus < num_devices:
        raise TrainError(
            f"`device` cuda with `devices` {num_devices}: this machine has {count_of(gpus, 'GPU')}; use cpu"
        )
    return "cuda" if wanted != "cpu" and gpus >= num_devices else "cpu"


def describe_idle_gpus(num_devices: int, wanted: str) -> str:
    """Return a note if ``auto`` leaves GPUs unused because they are too few for ``num_devices``; else nothing."""
    gpus = count_gpus()
    if wanted != "auto" or not 0 < gpus < count_local_processes(num_devices):
        return ""
    return (
        f"note: training on the CPU, as this machine has {count_of(gpus, 'GPU')} for `devices` {num_devices}; "
        "give `devices` 1 to use one"
    )


def choose_single_device(wanted: str = "auto") -> torch.device:
    """Return the device for a process that works alone, and limit torch's threads to its cores on a CPU.

    Raises TrainError as ``choose_device_type`` does.
    """
    device = torch.device(choose_device_type(1, wanted))
    if device.type == "cpu":
        torch.set_num_threads(min(torch.get_num_threads(), default_num_threads()))
    return device


def count_gpus() -> int:
    """Return the number of GPUs that this process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def make_run_setting(rank: Rank, precision: str, data: Any) -> RunSetting:
    """Collect the settings of a run that its verdict's advice depends on; ``data``: its stream."""
    here, ranks = count_cores(), count_local_processes(rank.columns.batch_slice.count)
    return RunSetting(
        device=rank.device.type,
        precision=precision,
        order=data.facts().order,
        ranks=ranks,
        max_ranks=count_gpus() if rank.device.type == "cuda" else here,
        cores=here,
        threads=getattr(data, "num_threads", None),
        encoding=getattr(data, "encoding", None),
    )


def is_under_torchrun() -> bool:
    """Return whether this process is a rank started by torchrun, or by anything that sets the same variables.

    Raises TrainError if another launcher's variables, or only some of torchrun's, say that there are several
    processes: without the rest, each of them would train alone.
    """
    if all(name in os.environ for name in _TORCHRUN_VARIABLES):
        return True
    if signs := _find_launcher_variables():
        missing = [name for name in _TORCHRUN_VARIABLES if name not in os.environ]
        lacks = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set"
        raise TrainError(
            f"{signs[0]}={os.environ[signs[0]]} says that this is one of several processes, but {lacks}; "
            f"start each with torchrun, which sets all, or unset {' and '.join(signs)} to train in this process alone"
        )
    return False


def _find_launcher_variables() -> list[str]:
    """Return the variables by which a launcher says that it has started more processes than this one."""
    signs = [name for name, alone in _LAUNCHER_VARIABLES.items() if _read_env_number(name) > alone]
    # Slurm runs a batch job's script only once, and a step of the job may have fewer tasks than the job.
    is_step = "SLURM_PROCID" in os.environ and os.environ.get("ENVIRONMENT") != "BATCH"
    if is_step and _read_env_number("SLURM_NTASKS") > 1 and _read_env_number("SLURM_STEP_NUM_TASKS") != 1:
        signs.append("SLURM_NTASKS")
    return signs


def _read_env_number(name: str) -> int:
    """Read a whole number from the environment; -1 if the variable is not set or not a whole number."""
    text = os.environ.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


class _TorchrunWorld(NamedTuple):
    """This process's rank, and the number of processes, on all nodes and on this one."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def _read_torchrun_world() -> _TorchrunWorld:
    """Read torchrun's variables. Raises TrainError for values that torchrun never sets."""
    size = _require_env_number("WORLD_SIZE", 1)
    local_size = _require_env_number("LOCAL_WORLD_SIZE", 1, size) if "LOCAL_WORLD_SIZE" in os.environ else 1
    local_most = local_size - 1 if "LOCAL_WORLD_SIZE" in os.environ else size - 1
    _require_env_number("MASTER_PORT", 1, 65535)
    if not os.environ["MASTER_ADDR"]:
        raise _make_env_error("MASTER_ADDR", "the first rank's host")
    return _TorchrunWorld(
        _require_env_number("RANK", 0, size - 1), size, _require_env_number("LOCAL_RANK", 0, local_most), local_size
    )


def _require_env_number(name: str, least: int, most: int = 1_000_000) -> int:
    """Read a whole number from ``least`` to ``most`` from the environment. Raises TrainError for anything else."""
    if least <= _read_env_number(name) <= most:
        return _read_env_number(name)
    raise _make_env_error(name, f"a whole number from {least} to {most}")


def _make_env_error(name: str, expected: str) -> TrainError:
    *others, last = _TORCHRUN_VARIABLES
    return TrainError(
        f"{name}: received {os.environ[name]!r}, expected {expected}, as torchrun sets it; unset {', '.join(others)} "
        f"and {last} to train without torchrun"
    )


def is_main_process() -> bool:
    """Return whether this process prints and writes for the run before its ranks are connected."""
    return not is_under_torchrun() or _read_torchrun_world().rank == 0


def count_replicas(num_devices: int) -> int:
    """Return the number of replicas of the network, of ``num_devices`` processes each; 1 without torchrun.

    Raises TrainError if the number of torchrun's processes is not a multiple of ``num_devices``.
    """
    if not is_under_torchrun():
        return 1
    world_size = _read_torchrun_world().size
    if world_size % num_devices:
        raise TrainError(
            f"`devices` {num_devices} under torchrun with {count_of(world_size, 'process', 'processes')}: expected a "
            f"multiple of {num_devices}"
        )
    return world_size // num_devices


def run_on_ranks(
    work: Callable[..., None],
    args: tuple[Any, ...],
    num_devices: int,
    device_type: str,
    context: RunContext = RunContext(),
) -> None:
    """Run ``work(rank, *args)`` in every process of the run and wait for all of them.

    Under torchrun this process is one of them. Otherwise the work runs in this process for one device; for two, two
    processes are started, which connect through a store that this process serves; if one dies the other is stopped.
    Raises the error of ``work`` if it is an AlexstreamError; TrainError if the ranks cannot connect, if one dies
    otherwise, or if one does not answer for ``context.timeout_s`` seconds.
    """
    if is_under_torchrun():
        world = _read_torchrun_world()
        place = RankInfo(index=world.rank, count=world.size, timeout_s=context.timeout_s, folder=context.folder)
        _run_torchrun_rank(work, args, num_devices, device_type, place)
        return
    if num_devices == 1:
        _configure_device(device_type, 0, 1)
        _call_work(work, Rank(columns=Columns(), device=_make_device(device_type, 0), stop=context.stop), args)
        return
    with serve_local_store() as address:
        call = _RankTask(
            address=address,
            count=num_devices,
            device_type=device_type,
            launcher=os.getpid(),
            context=context,
            work=work,
            names=list_names(),
            tells=tells_activities(),
        )
        run_rank_processes(_run_spawned_rank, (call, args), num_devices, context.timeout_s, context.folder)


def collect_results(work: Callable[..., Any], args: tuple[Any, ...], num_devices: int, device_type: str) -> list[Any]:
    """Run ``work`` as ``run_on_ranks`` does.

    Return its results (JSON values) by rank, or under torchrun of this rank alone.
    """
    with tempfile.TemporaryDirectory(prefix="alexstream-") as folder:
        run_on_ranks(_write_result, (work, args, Path(folder)), num_devices, device_type)
        return [json.loads(path.read_text()) for path in sorted(Path(folder).iterdir())]


def _write_result(rank: Rank, work: Callable[..., Any], args: tuple[Any, ...], folder: Path) -> None:
    (folder / f"{rank.columns.index}.json").write_text(json.dumps(work(rank, *args)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _RankTask:
    """Arguments of a spawned rank: the store's address, number and type of devices, launcher's process id, work."""

    address: StoreAddress
    count: int
    device_type: str
    launcher: int
    context: RunContext
    work: Callable[..., None]
    names: Mapping[str, str]  # what users call the parameters in messages
    tells: bool  # whether the main rank says what takes long


@guard_streams(log=True)
def _run_spawned_rank(index: int, pipe: Any, call: _RankTask, args: tuple[Any, ...]) -> None:
    """Run a spawned rank: connect to the others, do the work, disconnect. Sends expected errors to the launcher."""

    def tell(is_lost: bool, why: str) -> None:
        with suppress(OSError):  # the launcher may have been killed
            pipe.send((is_lost, why))

    def end(why: str) -> None:
        tell(True, why)
        os._exit(1)

    restore_interrupts()
    if call.context.stop is not None:
        stop_rank_on_interrupt(call.context.stop)
    raise_oom_score()
    use_names(call.names)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this machine
    place = RankInfo(index=index, count=call.count, timeout_s=call.context.timeout_s, folder=call.context.folder)
    try:
        exit_with_parent(call.launcher)
        waiting = start_watchdog(place, end)
        _configure_device(call.device_type, index, call.count)
        with translate_rendezvous_errors(place):
            columns = init_process_groups(call.device_type, call.address, place, call.count, waiting)
        with translate_dist_errors(place), tell_activities(call.tells and index == 0):
            rank = Rank(columns=columns, device=_make_device(call.device_type, index), stop=call.context.stop)
            _call_work(call.work, rank, args)
    except (AlexstreamError, OSError, RuntimeError) as error:
        limit = explain_process_limit(error)
        if limit is None and not isinstance(error, AlexstreamError | OSError):
            raise
        tell(isinstance(error, LostRanksError), limit or str(error))
        sys.exit(1)
    dist.destroy_process_group()


def _run_torchrun_rank(
    work: Callable[..., None], args: tuple[Any, ...], num_columns: int, device_type: str, place: RankInfo
) -> None:
    """Run a rank that torchrun started: connect, work, disconnect. torchrun ends the others if this one dies."""

    def end(why: str) -> None:
        print(f"Error: {to_display(why)}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(1)

    exit_with_parent(os.getppid())
    world = _read_torchrun_world()
    _configure_device(device_type, world.local_rank, world.local_size)
    waiting = start_watchdog(place, end)
    with translate_rendezvous_errors(place):
        columns = init_process_groups(device_type, _read_torchrun_address(), place, num_columns, waiting)
    with translate_dist_errors(place):
        _call_work(work, Rank(columns=columns, device=_make_device(device_type, world.local_rank)), args)
    dist.destroy_process_group()


def _read_torchrun_address() -> StoreAddress:
    """Read the store's address from torchrun's variables; torchrun may serve the store itself."""
    return StoreAddress(
        host=os.environ["MASTER_ADDR"],
        port=_require_env_number("MASTER_PORT", 1, 65535),
        keys=os.environ.get("TORCHELASTIC_RUN_ID", ""),
        is_served=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def _call_work(work: Callable[..., None], rank: Rank, args: tuple[Any, ...]) -> None:
    with keep_freed_memory() if rank.device.type == "cpu" else nullcontext():
        work(rank, *args)


def _make_device(device_type: str, index: int) -> torch.device:
    return torch.device(device_type, index) if device_type == "cuda" else torch.device(device_type)


def _configure_device(device_type: str, index: int, count: int) -> None:
    # torch's compiler starts one process for each core of the affinity mask, even if a cgroup quota allows fewer.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(min(32, max(1, count_cores() // count))))
    if device_type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required for deterministic cuBLAS
        torch.cuda.set_device(index)
    else:
        torch.set_num_threads(default_num_threads(count))
