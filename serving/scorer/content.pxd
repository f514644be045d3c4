# cython: boundscheck=False, wraparound=False
"""Bytes that came over a wire, read by two functions that look where they end.

Whatever lies beyond is zero, and zero ends strings, numbers and everything else. Eight bytes at once are the first of
them lowest.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

cdef struct Content:
    const uint8_t* bytes
    Py_ssize_t size


cdef inline Content content_of(const uint8_t[::1] given) noexcept nogil:
    cdef Content content = Content(NULL, given.shape[0])
    if given.shape[0]:
        content.bytes = &given[0]
    return content


cdef inline uint8_t byte(Content content, Py_ssize_t at) noexcept nogil:
    return content.bytes[at] if 0 <= at < content.size else 0


cdef inline uint64_t eight(Content content, Py_ssize_t at) noexcept nogil:
    """Return the eight bytes from a place on."""
    cdef uint64_t word = 0
    if 0 <= at <= content.size - 8:
        memcpy(&word, content.bytes + at, 8)
    elif 0 <= at < content.size:
        memcpy(&word, content.bytes + at, content.size - at)
    return word
