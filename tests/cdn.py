"""A caching HTTP server in front of a bucket, as a CDN is: ``python -m tests.cdn PORT ENDPOINT BUCKET``.

It relays GET, signing its requests to the bucket, keeps what was answered 200, and says so in ``Age`` and
``X-Cache``.  ``POST /mode/NAME`` makes it ``sound`` (as it begins), ``corrupt`` (a byte of every body is
another) or ``failing`` (it answers 503).
"""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final
from urllib.parse import unquote

import botocore.session

from tests.servers import ROOT, MotoServer, Server, _answers

_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_KEPT: Final = ("Content-Type", "Content-Encoding", "Cache-Control", "ETag")


class CdnServer(Server):
    def __init__(self, origin: MotoServer, bucket: str) -> None:
        super().__init__()
        self.origin, self.bucket = origin, bucket

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.cdn", str(self.port), self.origin.url, self.bucket]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT)}

    def ready(self) -> bool:
        return _answers(f"{self.url}/")

    def be(self, mode: str) -> None:
        request = urllib.request.Request(f"{self.url}/mode/{mode}", method="POST", data=b"")
        _OPENER.open(request, timeout=5).close()


class _Relay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    client: ClassVar[Any]  # botocore's, whose methods are made at run time
    bucket: ClassVar[str]
    mode = "sound"
    kept: ClassVar[dict[str, tuple[float, dict[str, str], bytes]]] = {}

    def do_POST(self) -> None:
        type(self).mode = self.path.rpartition("/")[2]
        self._answer(200, {}, b"")

    def do_GET(self) -> None:
        if self.path == "/":
            self._answer(200, {}, b"")
        elif self.mode == "failing":
            self._answer(503, {}, b"")
        else:
            self._relay()

    def _relay(self) -> None:
        kept = self.kept.get(self.path)
        hit = kept is not None
        if kept is None:
            where = {"Bucket": self.bucket, "Key": unquote(self.path[1:])}
            url = self.client.generate_presigned_url("get_object", Params=where)
            try:
                with _OPENER.open(url, timeout=20) as answer:
                    headers = {name: answer.headers[name] for name in _KEPT if name in answer.headers}
                    kept = time.time(), headers, answer.read()
            except urllib.error.HTTPError as error:
                self._answer(error.code, {}, b"")
                return
            self.kept[self.path] = kept
        since, headers, body = kept
        if self.mode == "corrupt":
            body = body[:-1] + bytes((body[-1] ^ 1,))
        age = str(int(time.time() - since))
        self._answer(200, {**headers, "Age": age, "X-Cache": "HIT" if hit else "MISS"}, body)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    _Relay.client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=sys.argv[2],
        region_name=MotoServer.region,
        aws_access_key_id=MotoServer.access_key,
        aws_secret_access_key=MotoServer.secret_key,
    )
    _Relay.bucket = sys.argv[3]
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Relay).serve_forever()
