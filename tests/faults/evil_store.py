"""An object store that means harm, on loopback: answers without end, a byte a second, listings that lead nowhere."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape


def listing(keys=(), folders=(), token="", size=11):
    """A page of ListObjectsV2."""
    rows = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;x&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for key in keys
    )
    rows += "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
        f"<Prefix></Prefix><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>{str(bool(token)).lower()}"
        f"</IsTruncated>{more}{rows}</ListBucketResult>"
    ).encode()


class EvilStore(ThreadingHTTPServer):
    """Answers each request as ``mode`` says; ``requests`` were made, ``sent`` bytes given."""

    daemon_threads = True

    def __init__(self, mode, fill=b" "):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mode, self.fill, self.requests, self.sent = mode, fill, 0, 0
        self.released = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that went away is right."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.requests += 1
        url = urlsplit(self.path)
        if self.server.mode == "mute":
            return self.released()
        if self.server.mode == "forbidden":
            return self.send_error(403)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        if self.server.mode == "redirects":
            return self.redirect(url.path)
        if self.server.mode in ("web page", "cut XML"):
            return self.answer(b"<html>log in</html>" if self.server.mode == "web page" else b"<?xml ", "text/html")
        if "list-type" in query and self.server.mode == "endless listing body":
            return self.endless_listing()
        if "list-type" in query and self.server.mode == "nested listing":
            return self.answer(b"<a>" * 3_000_000, "application/xml")
        if "list-type" in query:
            return self.answer(listing(**self.listed(query.get("prefix", ""))), "application/xml")
        return self.content(url.path)

    do_HEAD = do_GET

    def listed(self, prefix):
        mode, number = self.server.mode, self.server.requests
        if mode == "same token":
            return {"keys": [f"{prefix}{number}_{i}.jpg" for i in range(100)], "token": "same"}
        if mode == "no token":
            return {"keys": [f"{prefix}a.jpg"], "token": " "}
        if mode == "endless keys":
            return {"keys": [f"{prefix}{number}_{i}.jpg" for i in range(1000)], "token": f"t{number}"}
        if mode == "endless folders":
            return {"folders": [f"{prefix}1.jpg/"]}
        if mode == "elsewhere":
            return {"keys": ["other/../../../a.jpg"], "folders": ["other/x/"]}
        return {"keys": [f"{prefix}manifest.json"], "size": 1000}

    def answer(self, body, kind="application/octet-stream"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def content(self, path):
        mode = self.server.mode
        if "list" in mode or mode in ("same token", "no token", "endless keys", "endless folders", "elsewhere"):
            return self.send_error(404)
        if not path.endswith(("manifest.json", ".tar")):
            return self.send_error(404)
        size = {"endless": 1 << 60}.get(mode, 1000)
        if self.command == "HEAD":
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            return self.end_headers()
        if mode == "silent":
            return self.released()
        self.send_response(200)
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(1 << 60 if mode in ("endless", "more than said") else size))
        self.end_headers()
        return self.slow(size) if mode == "slow" else self.endless()

    def redirect(self, path):
        self.send_response(307)
        self.send_header("Location", f"{self.server.address}{path}?x={self.server.requests}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def endless_listing(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        start, _, end = listing(["a.jpg"]).partition(b"<Contents>")
        more = (b"<Contents>" + end.partition(b"</ListBucketResult>")[0]) * 5000
        self.wfile.write(b"%x\r\n%s\r\n" % (len(start), start))
        while self.server.sent < 8 << 30 and not self.server.released.is_set():
            self.wfile.write(b"%x\r\n%s\r\n" % (len(more), more))
            self.server.sent += len(more)

    def released(self):
        self.server.released.wait(300)

    def slow(self, size):
        for _ in range(size):
            self.wfile.write(b" ")
            self.wfile.flush()
            self.server.sent += 1
            if self.server.released.wait(0.2):
                return

    def endless(self):
        """As much as is taken; the test ends before it has filled a disk or a memory."""
        while self.server.sent < 8 << 30 and not self.server.released.is_set():
            self.wfile.write(self.server.fill * (1 << 20))
            self.server.sent += 1 << 20


@contextmanager
def evil_store(mode):
    """A store of this mode, and nothing of it left afterwards."""
    with EvilStore(mode) as store:
        thread = threading.Thread(target=store.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield store
        finally:
            store.released.set()
            store.shutdown()
            thread.join()
