"""Hash slots of Redis Cluster: which share of the keys a key belongs to.

Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final

SLOTS: Final = 16384


def key_slot(key: bytes) -> int:
    """The slot of a key: by what stands between its first braces, if anything does, else by all of it."""
    start = key.find(b"{") + 1
    if start:
        end = key.find(b"}", start)
        if end > start:
            key = key[start:end]
    return crc_hqx(key, 0) & (SLOTS - 1)
