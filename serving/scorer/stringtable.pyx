# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A table of strings, known by their column and their bytes; `stringtable.pyi` tells what it offers.

A slot, the string's own or one of the next, holds the place of an entry, a line of the processor's cache:

    column and length | its bytes, eight at a time, zeros behind the end: 4 words | worth | seal | nothing

The first entry is nobody's. An entry is whole where hash and worth give its seal, whatever of it was written first.
"""

import numpy as np

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from serving.scorer.content cimport Content, content_of, eight

cdef enum:
    WORDS = 4
    WORTH = 5
    SEAL = 6
    ENTRY = 8
    PROBES = 4

LONGEST = 8 * WORDS


cdef struct Key:
    uint64_t[WORDS + 1] parts
    uint64_t mixed


cdef inline uint64_t mixed_with(uint64_t mixed, uint64_t part, uint64_t odd) noexcept nogil:
    """Return a hash that depends in every bit on every bit of what it was and of a part, after two of these steps."""
    mixed = (mixed ^ part) * odd
    return mixed ^ (mixed >> 32)


cdef inline Key key_of(Content words, int64_t start, int64_t length, int64_t column, const uint64_t* odds) noexcept nogil:
    """Return what a string of at most 8 * WORDS bytes is looked up by: column and length, its bytes, and their hash."""
    cdef Key key
    cdef int place
    cdef int64_t left = length
    key.parts[0] = (<uint64_t>column << 32) | <uint64_t>length
    key.mixed = mixed_with(0, key.parts[0], odds[0])
    for place in range(1, WORDS + 1):
        key.parts[place] = 0
        if left > 0:
            key.parts[place] = eight(words, start)
            if left < 8:
                key.parts[place] &= (1ULL << (left << 3)) - 1
            key.mixed = mixed_with(key.mixed, key.parts[place], odds[place])
        left -= 8
        start += 8
    key.mixed = mixed_with(key.mixed, 0, odds[WORDS + 1])
    return key


cdef inline bint holds(const uint64_t* entry, const Key* key) noexcept nogil:
    """Say whether an entry is whole, and this key's."""
    cdef uint64_t differs = entry[WORTH] ^ entry[SEAL] ^ key.mixed
    cdef int place
    for place in range(WORDS + 1):
        differs |= entry[place] ^ key.parts[place]
    return differs == 0


cdef class Table:
    """See `stringtable.pyi`."""

    cdef readonly Py_ssize_t held
    cdef Py_ssize_t most
    cdef int shift
    cdef uint64_t[WORDS + 2] odds
    cdef int32_t[::1] slots
    cdef uint64_t[:, ::1] entries

    def __init__(self, int bits, Py_ssize_t most, const uint64_t[::1] odds not None):
        if not 1 <= bits <= 24 or not 0 < most < 1 << bits or odds.shape[0] != WORDS + 2:
            raise ValueError("expected fewer entries than slots, and an odd number for each part of a key")
        self.held, self.most, self.shift = 0, most, 64 - bits
        for place in range(WORDS + 2):
            self.odds[place] = odds[place] | 1
        self.slots = np.zeros(1 << bits, np.int32)
        self.entries = np.zeros((most + 1, ENTRY), np.uint64)

    cdef Py_ssize_t find(self, const Key* key) noexcept nogil:
        """Return the place of a string's entry, 0 where there is none."""
        cdef Py_ssize_t last = self.slots.shape[0] - 1, slot = key.mixed >> self.shift, step, place
        for step in range(PROBES):
            place = self.slots[(slot + step) & last]
            if place == 0 or holds(&self.entries[place, 0], key):
                return place
        return 0

    def add_worths(
        self,
        const uint8_t[::1] content not None,
        const int64_t[:, :] starts not None,
        const int64_t[:, :] lengths not None,
        const int64_t[::1] columns not None,
        double[::1] totals not None,
    ):
        cdef Content words = content_of(content)
        cdef Py_ssize_t rows = totals.shape[0], count = 0, column, row, place
        cdef double worth
        cdef Key key
        check_shapes(starts, lengths, columns, rows)
        left = np.empty(columns.shape[0] * rows, np.int64)
        cdef int64_t[::1] unknown = left
        with nogil:
            for column in range(columns.shape[0]):
                for row in range(rows):
                    place = 0
                    if lengths[column, row] <= 8 * WORDS:
                        key = key_of(words, starts[column, row], lengths[column, row], columns[column], self.odds)
                        place = self.find(&key)
                    if place:
                        memcpy(&worth, &self.entries[place, WORTH], 8)
                        totals[row] += worth
                    else:
                        unknown[count] = column * rows + row
                        count += 1
        return left[:count]

    def learn(
        self,
        const uint8_t[::1] content not None,
        const int64_t[:, :] starts not None,
        const int64_t[:, :] lengths not None,
        const int64_t[::1] columns not None,
        const int64_t[::1] places not None,
        const double[::1] worths not None,
    ):
        cdef Content words = content_of(content)
        cdef Py_ssize_t rows = starts.shape[1], last = self.slots.shape[0] - 1, index, column, row, step, slot
        cdef uint64_t* entry
        cdef Key key
        check_shapes(starts, lengths, columns, rows)
        for index in range(min(places.shape[0], worths.shape[0])):
            if not 0 <= places[index] < columns.shape[0] * rows:
                raise ValueError(f"expected the place of a string, found {places[index]}")
            column, row = places[index] // rows, places[index] % rows
            if self.held == self.most or lengths[column, row] > 8 * WORDS:
                continue
            key = key_of(words, starts[column, row], lengths[column, row], columns[column], self.odds)
            if self.find(&key):
                continue
            for step in range(PROBES):
                slot = ((key.mixed >> self.shift) + step) & last
                if self.slots[slot] == 0:
                    entry = &self.entries[self.held + 1, 0]
                    memcpy(entry, key.parts, sizeof(key.parts))
                    memcpy(entry + WORTH, &worths[index], 8)
                    entry[SEAL] = entry[WORTH] ^ key.mixed
                    self.held += 1
                    self.slots[slot] = self.held
                    break


cdef check_shapes(
    const int64_t[:, :] starts, const int64_t[:, :] lengths, const int64_t[::1] columns, Py_ssize_t rows
):
    cdef bint fit = starts.shape[0] == lengths.shape[0] == columns.shape[0]
    if not fit or not starts.shape[1] == lengths.shape[1] == rows:
        raise ValueError(f"expected the places of strings in {columns.shape[0]} columns and {rows} rows")
