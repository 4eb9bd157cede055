"""LZF, as Redis compresses strings in a DUMP (format: http://oldhome.schmorp.de/marc/liblzf.html)."""

from __future__ import annotations

from mypy_extensions import i64


def decompress(data: bytes, size: int) -> bytes:
    """The ``size`` bytes of which ``data`` is the compressed form; raises ValueError."""
    out = bytearray()
    at: i64 = 0
    end: i64 = len(data)
    while at < end:
        control: i64 = data[at]
        at += 1
        if control < 32:  # so many bytes, and one, as they are
            run = control + 1
            if at + run > end:
                raise ValueError("cut off")
            out += data[at : at + run]
            at += run
        else:  # what stood some way back, once more
            run = control >> 5
            if run == 7:
                if at >= end:
                    raise ValueError("cut off")
                run += data[at]
                at += 1
            if at >= end:
                raise ValueError("cut off")
            distance: i64 = ((control & 31) << 8 | data[at]) + 1
            at += 1
            run += 2
            begin: i64 = len(out) - distance
            if begin < 0:
                raise ValueError("a reference to what is before the beginning")
            if run <= distance:
                out += out[begin : begin + run]
            else:  # it reaches into what it makes: a pattern that repeats
                pattern = bytes(out[begin:])
                out += (pattern * (run // distance + 1))[:run]
        if len(out) > size:
            break
    if len(out) != size:
        raise ValueError("not the size that was announced")
    return bytes(out)
