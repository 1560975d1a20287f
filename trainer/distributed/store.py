"""TCP store through which ranks find each other: serve it, find its address, connect to it.

torch's store has no authentication. So for ranks on one machine it is served on the loopback interface, under keys
that only they know. For ranks on several machines it is open to their network.
"""

from __future__ import annotations

import errno
import ipaddress
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from alexstream.trainer.distributed.watchdog import StallWatchdog
from alexstream.trainer.errors import LostRanksError, TrainError

POLL_S = 0.2
_CONNECT_TIMEOUT_S = 3.0  # timeout of one attempt to connect


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAddress:
    """Address of the store, the prefix of this run's keys in it, and the name of the process that serves it.

    ``is_served``: a process other than the ranks serves the store; otherwise rank 0 does.
    """

    host: str
    port: int
    keys: str = ""
    server: str = "rank 0"
    is_served: bool = False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@contextmanager
def serve_local_store() -> Iterator[StoreAddress]:
    """Serve a store to processes of this machine that know its address.

    Raises TrainError if the loopback interface does not work.
    """
    listener = _listen_on_loopback()
    host, port = listener.getsockname()[:2]
    address = StoreAddress(host=host, port=port, keys=secrets.token_hex(16), server="the launcher", is_served=True)
    if refusal := _probe_address(address):
        listener.close()
        raise _make_loopback_error(refusal)
    store = _make_tcp_store(address, 60.0, listener)
    try:
        yield address
    finally:
        del store  # stops serving


def _listen_on_loopback() -> socket.socket:
    reason = ""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            return socket.create_server((host, 0), family=family)
        except OSError as error:
            reason = reason or error.strerror or str(error)
    raise _make_loopback_error(reason)


def _make_loopback_error(reason: str) -> TrainError:
    return TrainError(
        f"the loopback interface does not work ({reason}), but ranks on one machine connect through it; bring it up "
        "(ip link set lo up), or train in one process with `devices` 1"
    )


def listen_for_ranks(address: StoreAddress) -> socket.socket:
    """Listen at rank 0's address: on the loopback interface if its host resolves to that, else on all interfaces.

    Raises TrainError if the port is in use, or not allowed for this user.
    """
    try:
        if host := _resolve_loopback(address.host):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, address.port), family=family)
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", address.port))
    except OSError as error:
        raise TrainError(_describe_port_error(address.port, error)) from error


def _resolve_loopback(host: str) -> str | None:
    """Return the numeric address of a host that resolves to loopback addresses only; None for any other host."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return None
    numbers = [str(where[0]) for *_, where in found]
    return numbers[0] if all(ipaddress.ip_address(number.split("%")[0]).is_loopback for number in numbers) else None


def _describe_port_error(port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"MASTER_PORT: received {port}, which another program on this machine uses; give a port that is free, "
            "or end that program (ss -ltnp shows it)"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"MASTER_PORT: received {port}, where this user may not listen; give one from 1024 to 65535"
    return f"rank 0 cannot listen at port {port}, MASTER_PORT ({error.strerror or error}); fix that and start again"


def connect_to_store(
    address: StoreAddress, who: str, waiting: StallWatchdog, limit_s: float, listener: socket.socket | None = None
) -> Store:
    """Connect to the store as soon as it is served, or serve it to all ranks on the socket ``listener``.

    ``who`` names the waiting rank in messages. Raises LostRanksError after ``limit_s`` seconds; never OSError.
    """
    server = "itself" if listener is not None else address.server
    with waiting.watch(f"{server} at {address}", limit_s) as wait:
        is_told = False
        while refusal := _probe_address(address):
            wait.what = f"{server} at {address} ({refusal})"
            if isinstance(refusal, _UnknownHost) and not is_told:
                is_told = True
                print(  # noqa: T201
                    f"{who}: MASTER_ADDR {address.host!r} cannot be resolved here ({refusal}); trying again for "
                    f"{limit_s:g} s",
                    file=sys.stderr,
                    flush=True,
                )
            if wait.is_over:
                raise LostRanksError(f"{who} did not reach {wait.what} in {limit_s:g} s; fix that and start again")
            time.sleep(POLL_S)
        wait.what = f"{server} at {address}, which accepted the connection but does not answer"
        return _make_tcp_store(address, limit_s, listener)


class _UnknownHost(str):
    """The reason why a host name could not be resolved."""


def _probe_address(address: StoreAddress) -> str:
    """Try to connect, and return the reason why that failed, or "" if it did not."""
    try:
        socket.create_connection((address.host, address.port), timeout=_CONNECT_TIMEOUT_S).close()
    except socket.gaierror as error:
        return _UnknownHost(error.strerror or str(error))
    except UnicodeError:
        return _UnknownHost("no name that a host can have")
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return ""


def _make_tcp_store(address: StoreAddress, timeout_s: float, listener: socket.socket | None) -> Store:
    """Make the server, on a socket that listens already, or without one a client of a server that can be reached."""
    timeout = timedelta(seconds=timeout_s)
    if listener is None:
        return dist.TCPStore(  # type: ignore[attr-defined]
            address.host, address.port, None, False, timeout, wait_for_workers=False
        )
    port, descriptor = listener.getsockname()[1], listener.detach()
    return dist.TCPStore(  # type: ignore[attr-defined]
        address.host, port, None, True, timeout, wait_for_workers=False, master_listen_fd=descriptor
    )
