"""An object store that misbehaves as told: an HTTP proxy before the S3 server of the tests, and shards behind it."""

import hashlib
import http.client
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from alexstream.pipeline.cache.fetch import RetryPolicy
from alexstream.sharding.dataset_v1.manifest import ShardRecord

DIGEST = "d" * 64
SHARD_BYTES = 100_000
QUICK = RetryPolicy(chunk_bytes=50_000, attempts=3, timeout_s=5.0, backoff_s=0.01, limit_s=60.0)


class Proxy(ThreadingHTTPServer):
    """Hands requests on to ``address``; ``fault(path, number)`` names what to do to the number-th GET of a path."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address, self.lock = urlsplit(address).netloc, threading.Lock()
        self.released = threading.Event()  # ends every stall
        self.behave()

    def behave(self):
        """No faults, nothing counted, and what stalls goes on."""
        self.released.set()
        self.released, self.fault = threading.Event(), lambda path, number: None
        self.gets, self.bytes_sent = Counter(), Counter()

    def handle_error(self, request, client_address):
        """A client that went away is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._hand_on(None)

    def do_GET(self):
        name = urlsplit(self.path).path.rpartition("/")[2]
        with self.server.lock:
            self.server.gets[name] += 1
            number = self.server.gets[name]
        self._hand_on(self.server.fault(name, number), name)

    def _hand_on(self, fault, name=""):
        if fault in ("500", "503"):
            self.send_error(int(fault))
            return
        connection = http.client.HTTPConnection(self.server.address, timeout=20)
        headers = {key: value for key, value in self.headers.items() if key.lower() != "connection"}
        connection.request(self.command, self.path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        self._answer(answer, body, fault, name)

    def _answer(self, answer, body, fault, name):
        if fault == "stall":
            self.server.released.wait(60)
        if isinstance(fault, float):  # a slow server
            self.server.released.wait(fault)
        if fault == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault == "truncate":
            body = body[: len(body) // 2]
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("connection", "content-length", "transfer-encoding", "date", "server"):
                self.send_header(key, value)
        # A truncating server is honest about what it sends; one that drops the connection is not.
        size = answer.getheader("content-length") if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if fault in ("drop", "hang"):
            self.wfile.write(body[: len(body) // 2])
            if fault == "hang":
                self.server.released.wait(60)
            self.close_connection = True
            return
        self.wfile.write(body)
        with self.server.lock:
            self.server.bytes_sent[name] += len(body)


@contextmanager
def proxy_before(address):
    with Proxy(address) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.released.set()
            proxy.shutdown()
            thread.join()


def remote_folder(text, endpoint):
    """``text`` at ``endpoint``, by a client that leaves trying again to the code under test."""
    from upath import UPath

    address = f"http://127.0.0.1:{endpoint}"
    once = {"retries": {"max_attempts": 0}}
    folder = UPath(text, endpoint_url=address, use_listings_cache=False, config_kwargs=once)
    folder.fs.retries = 1
    return folder


def upload(text, count):
    """``count`` shards of random bytes; their records and their contents."""
    from upath import UPath

    contents = [np.random.default_rng(i).bytes(SHARD_BYTES) for i in range(count)]
    records = [record(f"train-{i:06d}", content) for i, content in enumerate(contents)]
    for one, content in zip(records, contents, strict=True):
        (UPath(text, use_listings_cache=False) / f"{one.name}.tar").write_bytes(content)
    return records, contents


def record(name, content):
    sha256 = hashlib.sha256(content).hexdigest()
    fields = {"num_bytes": len(content), "sha256": sha256, "index_sha256": "", "catalog_sha256": ""}
    return ShardRecord(name=name, num_samples=1, **fields)


def cached(folder):
    """Numbers of the shards that are whole in a cache folder."""
    return sorted(int(path.stem[-6:]) for path in Path(folder).glob("*/*.tar"))


def du(folder):
    """Bytes of all shards in a cache folder, whole or not; a file that goes meanwhile counts as nothing."""
    total = 0
    for path in Path(folder).glob("*/*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total
