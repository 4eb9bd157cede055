"""moto's S3 server, whose conditional writes and deletes are one step, as those of S3 are.

    python s3_moto.py -H HOST -p PORT

moto itself looks at the condition and then writes, in threads: of two writers both may win.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import Final, ParamSpec, TypeVar

from moto.s3.responses import S3Response
from moto.server import main

P = ParamSpec("P")
T = TypeVar("T")

_writing: Final = Lock()


def one_by_one(method: Callable[P, T]) -> Callable[P, T]:
    @wraps(method)
    def alone(*args: P.args, **kwargs: P.kwargs) -> T:
        with _writing:
            return method(*args, **kwargs)

    return alone


if __name__ == "__main__":
    S3Response.put_object = one_by_one(S3Response.put_object)  # type: ignore[method-assign]
    S3Response.delete_object = one_by_one(S3Response.delete_object)  # type: ignore[method-assign]
    main()
