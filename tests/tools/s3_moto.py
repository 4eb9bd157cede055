"""moto's S3 alone, each of whose requests for one object is one step, as those of S3 are.

    python s3_moto.py PORT

moto looks at a condition, then writes, then adds the metadata, in threads: of two writers both may win, and a
reader may find an object without its metadata.  Its own server has all services, and takes as long to find S3
among them as to answer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import Final, ParamSpec, TypeVar

from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from moto.s3.responses import S3Response
from werkzeug.serving import run_simple

P = ParamSpec("P")
T = TypeVar("T")

_at_work: Final = RLock()


def one_by_one(method: Callable[P, T]) -> Callable[P, T]:
    @wraps(method)
    def alone(*args: P.args, **kwargs: P.kwargs) -> T:
        with _at_work:
            return method(*args, **kwargs)

    return alone


def main(port: str) -> None:
    for name in ("put_object", "delete_object", "get_object", "head_object"):
        setattr(S3Response, name, one_by_one(getattr(S3Response, name)))
    app = create_backend_app("s3")
    run_simple("127.0.0.1", int(port), app, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(*sys.argv[1:])
