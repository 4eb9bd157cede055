"""For operators, over HTTP: ``/healthz``, ``/readyz`` and ``/metrics``.

Importing this takes a third of a second, for aiohttp's sake: the server does so in a thread, when its
clients are served already.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from backends.base import StoreError
from proxy.homes import ColdHome, UpstreamHome
from proxy.info import InfoSource
from proxy.metrics import Snapshot
from proxy.router import Home

PATIENCE: Final = 1.0  # seconds that a backend has to answer
KEPT: Final = 1.0  # seconds that its answer holds
SHUTDOWN: Final = 1.0  # seconds that requests have to end when the server stops


async def serve_http(source: InfoSource, sock: socket.socket) -> None:
    """Answer whoever connects to a listening socket, until cancelled."""
    endpoints = Endpoints(source)
    app = web.Application()
    app.router.add_get("/healthz", endpoints.healthz)
    app.router.add_get("/readyz", endpoints.readyz)
    app.router.add_get("/metrics", endpoints.metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN)
    try:
        await runner.setup()
        await web.SockSite(runner, sock).start()
        await asyncio.get_running_loop().create_future()
    finally:
        endpoints.close()
        await runner.cleanup()


class Probe:
    """Whether one backend answers.

    However many ask: one ping is under way at a time, and its outcome is good for a while.  A ping that
    takes too long is not cancelled, but left to the backend's own timeout, so that none pile up there.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self._ping: asyncio.Task[str] | None = None
        self._good_until = 0.0  # by the loop's time

    async def state(self) -> str:
        """``up``, or ``down: `` and the reason; within ``PATIENCE``."""
        if self.home.down:
            return f"down: {self.home.down}"
        loop = asyncio.get_running_loop()
        ping = self._ping
        if ping is None or (ping.done() and loop.time() >= self._good_until):
            ping = self._ping = loop.create_task(self._ask())
        done, _ = await asyncio.wait([ping], timeout=PATIENCE)
        return ping.result() if done else f"down: no answer within {PATIENCE:.0f} s"

    def close(self) -> None:
        if self._ping is not None:
            self._ping.cancel()

    async def _ask(self) -> str:
        try:
            if isinstance(self.home, ColdHome):
                await self.home.store.ping()
            elif isinstance(self.home, UpstreamHome):
                await self.home.upstream.ping()
            return "up"
        except StoreError as error:
            return f"down: {error}"
        finally:
            self._good_until = asyncio.get_running_loop().time() + KEPT


class Endpoints:
    """What is answered on each path."""

    def __init__(self, source: InfoSource) -> None:
        self._source = source
        self._probes = [Probe(home) for home in source.homes.values()]

    def close(self) -> None:
        for probe in self._probes:
            probe.close()

    async def healthz(self, request: web.Request) -> web.Response:
        """200, since whoever asks is answered."""
        return web.Response(text="ok")

    async def readyz(self, request: web.Request) -> web.Response:
        """All backends and their state, as JSON; 200 if all are up, else 503."""
        states = await self._states()
        ready = all(state == "up" for state in states.values())
        backends = []
        for home in self._source.homes.values():
            facts: dict[str, object] = {"name": home.name, "type": home.type, "state": states[home.name]}
            if isinstance(home, UpstreamHome):
                facts["breaker"] = home.upstream.breaker()
            elif isinstance(home, ColdHome) and home.write_back is not None:
                facts["journal"] = home.write_back.state()
            backends.append(facts)
        return web.json_response({"ready": ready, "backends": backends}, status=200 if ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """All metrics, in Prometheus' text format or as OpenMetrics, whichever is asked for."""
        states = await self._states()
        up = {name: state == "up" for name, state in states.items()}
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # In a thread: with a hundred routes this takes some 20 ms.
        body = await asyncio.to_thread(encode, Snapshot(self._source, up))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _states(self) -> dict[str, str]:
        states = await asyncio.gather(*(probe.state() for probe in self._probes))
        return {probe.home.name: state for probe, state in zip(self._probes, states, strict=True)}
