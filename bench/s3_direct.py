"""aiobotocore by itself: so many GETs or PUTs from concurrent tasks, on the loop that redtier runs on.

    python -m bench.s3_direct URL ACCESS_KEY SECRET_KEY REGION BUCKET GET|SET REQUESTS KEYS

Prints the seconds that they took, and the CPU seconds of this process, after a first round that opened
the connections.  The keys are taken one after the other: SET at least as many before they are GET.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import cycle

import uvloop
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from bench.measure import CLIENTS, VALUE_SIZE


async def main(argv: list[str]) -> None:
    url, access_key, secret_key, region, bucket, operation = argv[:6]
    requests, keys = map(int, argv[6:])
    session, body = get_session(), os.urandom(VALUE_SIZE)
    async with session.create_client(
        "s3",
        endpoint_url=url,
        region_name=region,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=AioConfig(max_pool_connections=CLIENTS),
    ) as client:
        names = cycle(f"direct/{number}" for number in range(keys))

        async def put() -> None:
            await client.put_object(Bucket=bucket, Key=next(names), Body=body)

        async def get() -> None:
            response = await client.get_object(Bucket=bucket, Key=next(names))
            async with response["Body"] as stream:
                assert len(await stream.read()) == VALUE_SIZE

        once = {"GET": get, "SET": put}[operation]
        await in_parallel(once, CLIENTS)
        used, began = time.process_time(), time.perf_counter()
        await in_parallel(once, requests)
        print(time.perf_counter() - began, time.process_time() - used)


async def in_parallel(once: Callable[[], Awaitable[None]], times: int) -> None:
    left = iter(range(times))

    async def client() -> None:
        for _ in left:
            await once()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:]))
