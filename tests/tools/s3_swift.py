"""A single-node OpenStack Swift that speaks S3 on loopback: real authentication, no conditional writes.

    /usr/bin/python3 s3_swift.py DIRECTORY S3_PORT ACCOUNT_PORT CONTAINER_PORT OBJECT_PORT MEMCACHED_PORT

Runs until SIGTERM, or until one of its servers ends; all state is under DIRECTORY, whose file system must
have user extended attributes.  Needs Debian's swift-{proxy,account,container,object} and memcached, and the
Python that Swift is installed for: this file imports nothing else.  It listens once /healthcheck answers.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import traceback
from configparser import RawConfigParser
from typing import NoReturn

SERVERS = ("proxy", "account", "container", "object", "memcached")
ACCESS_KEY, SECRET_KEY, REGION = "test:tester", "testing", "us-east-1"
FILTERS = (
    "catch_errors gatekeeper healthcheck proxy-logging cache listing_formats bulk s3api tempauth copy slo dlo"
)
PR_SET_PDEATHSIG = 1


def main(root: str, *ports: str) -> int:
    port = dict(zip(SERVERS, map(int, ports), strict=True))
    lay_out(root, port)
    pids = {}
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))
    try:
        for server in SERVERS:
            pids[os.fork() or serve(root, server, port[server])] = server
        pid, status = os.wait()
        print(f"s3_swift: {pids.pop(pid)} ended: {os.waitstatus_to_exitcode(status)}", file=sys.stderr)
        return 1
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)


def lay_out(root: str, port: dict[str, int]) -> None:
    """Write the configuration and the rings, and import the servers, which the forks share."""
    os.makedirs(f"{root}/etc")
    os.makedirs(f"{root}/devices/d1")
    write(
        f"{root}/etc/swift.conf",
        {
            "swift-hash": {"swift_hash_path_suffix": "redtier"},
            "swift-constraints": {"max_meta_value_length": "2048"},  # S3's limit; 256 by default
        },
    )
    for server in SERVERS[:4]:
        write(f"{root}/etc/{server}-server.conf", configuration(root, server, port))

    from swift.common import utils

    utils.set_swift_dir(f"{root}/etc")  # before the imports below, which read swift.conf
    import swift.account.server
    import swift.container.server
    import swift.obj.server
    import swift.proxy.server  # noqa: F401
    from swift.common.ring import RingBuilder

    for server in SERVERS[1:4]:
        ring = RingBuilder(part_power=2, replicas=1, min_part_hours=0)
        device = {"id": 0, "region": 1, "zone": 1, "weight": 1, "device": "d1"}
        ring.add_dev({**device, "ip": "127.0.0.1", "port": port[server]})
        ring.rebalance()
        ring.get_ring().save(f"{root}/etc/{server}.ring.gz")
    gc.freeze()


def configuration(root: str, server: str, port: dict[str, int]) -> dict[str, dict[str, str]]:
    default = {
        "bind_ip": "127.0.0.1",
        "bind_port": str(port[server]),
        "workers": "0",
        "swift_dir": f"{root}/etc",
        "devices": f"{root}/devices",
        "mount_check": "false",
        "disable_fallocate": "true",
        "fallocate_reserve": "0",
    }
    if server == "proxy":
        filters, app = FILTERS.split(), {"account_autocreate": "true", "node_timeout": "60"}
    else:  # no updater runs here, so a slow listing update must not be left to one
        filters, app = ["healthcheck"], {"container_update_timeout": "60"}
    options = {
        "cache": {"use": "egg:swift#memcache", "memcache_servers": f"127.0.0.1:{port['memcached']}"},
        "proxy-logging": {"use": "egg:swift#proxy_logging"},
        "s3api": {"location": REGION, "max_upload_part_num": "10000"},
        "slo": {"max_manifest_segments": "10000"},
        "tempauth": {f"user_{ACCESS_KEY.replace(':', '_')}": f"{SECRET_KEY} .admin"},
    }
    return {
        "DEFAULT": default,
        "pipeline:main": {"pipeline": " ".join([*filters, f"{server}-server"])},
        f"app:{server}-server": {"use": f"egg:swift#{server}", **app},
        **{f"filter:{name}": {"use": f"egg:swift#{name}", **options.get(name, {})} for name in filters},
    }


def write(path: str, sections: dict[str, dict[str, str]]) -> None:
    parser = RawConfigParser()
    parser.read_dict(sections)
    with open(path, "w") as file:
        parser.write(file)


def serve(root: str, server: str, port: int) -> NoReturn:
    """In a forked child: become one of the servers, which ends with its parent."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if server == "memcached":
        os.execlp(server, server, "-u", "root", "-l", "127.0.0.1", "-p", str(port), "-m", "16", "-t", "1")
    from swift.common.wsgi import run_wsgi

    status = 1
    try:
        status = run_wsgi(f"{root}/etc/{server}-server.conf", f"{server}-server", verbose=True)
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)  # not through main's finally, which is the parent's


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
