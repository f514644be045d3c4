"""MurmurHash3_x86_32 of strings in plain Python: what the graph's operator computes, for one string at a time.

A few microseconds a string, and remembered for the strings of late.
"""

from functools import lru_cache

_LOW = 0xFFFFFFFF
_REMEMBERED = 1 << 14


@lru_cache(_REMEMBERED)
def murmur3(text: str) -> int:
    """Return the hash of the UTF-8 bytes of `text`, seed 0, in [0, 2**32); Appleby (2011).

    Raises
    ------
    UnicodeEncodeError
        It holds half of a surrogate pair.
    """
    data = text.encode()
    size = len(data)
    h = 0
    for start in range(0, size & ~3, 4):
        h ^= _scrambled(int.from_bytes(data[start : start + 4], "little"))
        h = ((h << 13 | h >> 19) * 5 + 0xE6546B64) & _LOW
    if size & 3:
        h ^= _scrambled(int.from_bytes(data[size & ~3 :], "little"))
    h ^= size
    h = ((h ^ h >> 16) * 0x85EBCA6B) & _LOW
    h = ((h ^ h >> 13) * 0xC2B2AE35) & _LOW
    return h ^ h >> 16


def _scrambled(block: int) -> int:
    k = (block * 0xCC9E2D51) & _LOW
    return ((k << 15 | k >> 17) * 0x1B873593) & _LOW
