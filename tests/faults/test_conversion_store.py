"""An object store that fails while a conversion reads or writes there: tried again, or one line, never a lie."""

import http.client
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from tests.faults.conversion import undisturbed
from tests.faults.sources import draw
from tests.support import forked_commands

PROMISE = "a store that fails is tried again or is one line, and the same command ends with the same objects"


class Proxy(ThreadingHTTPServer):
    """Hands requests on to ``address`` but for those from ``first`` to ``last``, which get ``fault``."""

    daemon_threads = True

    def __init__(self, address):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address, self.lock = urlsplit(address).netloc, threading.Lock()
        self.released = threading.Event()
        self.behave()

    def behave(self, fault=None, first=0, last=0):
        self.released.set()  # whoever stalls
        self.released = threading.Event()
        self.fault, self.first, self.last, self.count = fault, first, last, 0

    def next_fault(self):
        with self.lock:
            self.count += 1
            return self.fault if self.first <= self.count <= self.last else None

    def handle_error(self, request, client_address):
        """A client that went away is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _hand_on(self):
        fault = self.server.next_fault()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault in ("500", "503"):
            return self.send_error(int(fault))
        if fault == "stall":
            self.server.released.wait(300)
        if fault in ("drop", "stall"):
            self.close_connection = True
            return None
        connection = http.client.HTTPConnection(self.server.address, timeout=60)
        headers = {key: value for key, value in self.headers.items() if key.lower() != "connection"}
        connection.request(self.command, self.path, body=body, headers=headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return self._answer(answer, data, fault)

    def _answer(self, answer, data, fault):
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("connection", "content-length", "transfer-encoding", "date", "server"):
                self.send_header(key, value)
        size = answer.getheader("content-length") if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if fault == "cut":
            self.close_connection = True
            data = data[: len(data) // 2]
        self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _hand_on


@contextmanager
def proxy_before(address):
    with Proxy(address) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


def convert(source, folder, address):
    """``shard`` with the store at ``address``; tries once, and waits a second, where the client would for minutes."""
    impatient = {"AWS_MAX_ATTEMPTS": "1", "FSSPEC_S3": '{"config_kwargs": {"read_timeout": 1}}'}
    environment = {**os.environ, "AWS_ENDPOINT_URL": address, **impatient}
    done = forked_commands.run(("shard", "--src", source, "--out", folder, "--quiet"), environment)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 0 or (done.returncode == 1 and len(lines) == 1 and lines[0].startswith("Error: ")), (
        f"exit code {done.returncode}: {done.stderr}"
    )
    return done


@pytest.mark.promise(PROMISE, fault="{fault}, once or for good, at any request to the {side}", short=1, long=10)
@pytest.mark.parametrize("side", ["source", "output"])
@pytest.mark.parametrize("fault", ["503", "drop", "cut", "stall"])
def test_a_store_that_fails_at_any_request_loses_nothing(fault, side, trials, s3_server, s3_folder, tmp_path):
    if trials.count == 1 and (fault, side) not in (("stall", "output"), ("cut", "source")):
        pytest.skip("only in long runs: seconds each")
    import s3fs

    store = s3fs.S3FileSystem()
    images = draw(tmp_path / "src", 6)
    expected = objects_of_local(images, tmp_path)
    if side == "source":
        store.put(str(images), f"{s3_folder}/src", recursive=True)
    with proxy_before(s3_server) as proxy:
        address = f"http://127.0.0.1:{proxy.server_port}"
        for chance in trials:
            source = f"{s3_folder}/src" if side == "source" else images
            out = tmp_path / f"out{trials.number}" if side == "source" else f"{s3_folder}/out{trials.number}"
            first = chance.randint(1, 40)
            proxy.behave(fault, first, chance.choice([first, 10**6]))
            convert(source, out, address)
            proxy.behave()
            done = convert(source, out, address)
            assert done.returncode == 0, done.stderr
            assert objects(out, store) == expected


def objects(folder, store):
    """Name → content of what holds samples, wherever it lies."""
    if not isinstance(folder, str):
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("train-")}
    paths = store.ls(folder, refresh=True)
    return {path.rpartition("/")[2]: store.cat_file(path) for path in paths if "/train-" in path}


def objects_of_local(images, tmp_path):
    """What a conversion of a folder here to a folder here gives."""
    from tests.faults.conversion import convert as convert_here

    assert undisturbed(images, tmp_path / "proved", "--split", "train")
    assert convert_here(images, tmp_path / "local", "--split", "train").code == 0
    return objects(tmp_path / "local", None)
