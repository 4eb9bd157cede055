"""moto's S3 alone, whose conditional writes and deletes are one step, as those of S3 are.

    python s3_moto.py PORT

moto looks at the condition and then writes, in threads: of two writers both may win.  Its own server has all
services, and takes as long to find S3 among them as to answer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import Final, ParamSpec, TypeVar

from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from moto.s3.responses import S3Response
from werkzeug.serving import run_simple

P = ParamSpec("P")
T = TypeVar("T")

_writing: Final = Lock()


def one_by_one(method: Callable[P, T]) -> Callable[P, T]:
    @wraps(method)
    def alone(*args: P.args, **kwargs: P.kwargs) -> T:
        with _writing:
            return method(*args, **kwargs)

    return alone


def main(port: str) -> None:
    S3Response.put_object = one_by_one(S3Response.put_object)  # type: ignore[method-assign]
    S3Response.delete_object = one_by_one(S3Response.delete_object)  # type: ignore[method-assign]
    app = create_backend_app("s3")
    run_simple("127.0.0.1", int(port), app, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(*sys.argv[1:])
