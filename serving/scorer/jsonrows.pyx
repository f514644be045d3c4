# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Rows of JSON in one pass over their bytes; `jsonrows.pyi` tells what it offers.

What reads something returns where it ends, and 0 where there is something else.

Numbers are read as in Lemire, "Number Parsing at a Gigabyte per Second", Software: Practice and Experience 51(8), 2021:
the digits are gathered into an integer; where a double holds it and the power of ten, one division rounds as it should
(Clinger 1990), and otherwise a product with 128 bits of the power does (Eisel and Lemire). Only numbers below 2**53
are read, because from there on integers would change, and so only negative powers need a product.
"""

import numpy as np

from libc.math cimport INFINITY, NAN
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from serving.scorer.content cimport Content, byte, content_of, eight

cdef extern from *:
    """
    #if !defined(__SIZEOF_INT128__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "needs integers of 128 bits, and the first of eight bytes lowest; without, batches are read value by value"
    #endif
    typedef unsigned __int128 uint128_t;
    """
    ctypedef unsigned long long uint128_t
    int leading_zeros "__builtin_clzll"(uint64_t word) noexcept nogil
    int trailing_zeros "__builtin_ctzll"(uint64_t word) noexcept nogil

cdef enum:
    MOST_DIGITS = 19  # 64 bits hold them, whatever they are
    SMALLEST = 64  # the smallest power of ten that is read: 10**-64
    TENS = 23  # powers of ten that are doubles

cdef uint64_t EACH = 0x0101010101010101, TOPS = 0x8080808080808080, PAIRS = 0x000000FF000000FF
cdef double[TENS] POWERS
cdef uint64_t[SMALLEST + 1][2] FIVES


def prepare():
    """Fill in the powers of ten, and the first 128 bits of 5**-q in two halves, as the paper rounds them."""
    for power in range(TENS):
        POWERS[power] = float(10**power)
    for power in range(1, SMALLEST + 1):
        five = 5**power
        size = (five - 1).bit_length()
        if power <= 27:  # 5**q has 64 bits
            bits = (1 << (size + 127)) // five + 1
        else:
            bits = (1 << (2 * size + 128)) // five + 1
            bits >>= bits.bit_length() - 128
        FIVES[power][0], FIVES[power][1] = bits >> 64, bits % 2**64


prepare()


cdef inline double nearest(uint64_t digits, Py_ssize_t power) noexcept nogil:
    """Return the double nearest to digits * 10**-power, for digits > 0 and 0 < power <= SMALLEST."""
    cdef int zeros = leading_zeros(digits)
    cdef uint128_t product = <uint128_t>(digits << zeros) * FIVES[power][0]
    cdef uint64_t high = <uint64_t>(product >> 64), low = <uint64_t>product, more
    if high & 0x1FF == 0x1FF:  # too near to the middle between two doubles for 64 bits
        more = <uint64_t>((<uint128_t>(digits << zeros) * FIVES[power][1]) >> 64)
        low += more
        if more > low:
            high += 1
    cdef int upper = high >> 63
    cdef uint64_t mantissa = high >> (upper + 9)
    if low <= 1 and power <= 4 and mantissa & 3 == 1 and mantissa << (upper + 9) == high:
        mantissa -= 1  # a tie goes to the even one
    mantissa = (mantissa + (mantissa & 1)) >> 1
    cdef int64_t exponent = ((-217706 * power) >> 16) + 63 + upper - zeros - 52
    cdef uint64_t bits = <uint64_t>(exponent + 1023) << 52
    cdef double power_of_two
    memcpy(&power_of_two, &bits, 8)
    return <double>mantissa * power_of_two


cdef inline double scaled(uint64_t digits, Py_ssize_t power) noexcept nogil:
    """Return the double nearest to digits * 10**power, or infinity where it is not read here."""
    if digits == 0 or power == 0:
        return <double>digits
    if digits <= 1ULL << 53 and -TENS < power < TENS:
        return <double>digits * POWERS[power] if power > 0 else <double>digits / POWERS[-power]
    return nearest(digits, -power) if -SMALLEST <= power < 0 else INFINITY


cdef inline Py_ssize_t read_digits(Content content, Py_ssize_t at, uint64_t* gathered) noexcept nogil:
    """Gather digits, eight at once where there are as many; return where they end, if there are any or not."""
    cdef uint64_t digits = eight(content, at) ^ EACH * c'0'
    while not (((digits + EACH * 118) | digits) & TOPS):  # none of them above nine
        digits = digits * 10 + (digits >> 8)
        digits = ((digits & PAIRS) * (100 + (1000000ULL << 32)) + ((digits >> 16) & PAIRS) * (1 + (10000ULL << 32))) >> 32
        gathered[0] = gathered[0] * 100000000 + digits
        at += 8
        digits = eight(content, at) ^ EACH * c'0'
    while digits & 0xFF <= 9:
        gathered[0] = gathered[0] * 10 + (digits & 0xFF)
        digits >>= 8
        at += 1
    return at


cdef Py_ssize_t read_exponent(Content content, Py_ssize_t at, Py_ssize_t* power) noexcept nogil:
    """Read what follows an "e", and add it to a power."""
    cdef uint8_t sign = byte(content, at)
    cdef uint64_t exponent = 0
    cdef Py_ssize_t first = at + (sign == c'-' or sign == c'+')
    at = read_digits(content, first, &exponent)
    if at == first or at - first > 4:  # beyond any double
        return 0
    power[0] += -<Py_ssize_t>exponent if sign == c'-' else <Py_ssize_t>exponent
    return at


cdef inline Py_ssize_t read_number(Content content, Py_ssize_t first, double* number) noexcept nogil:
    """Read a number without a sign."""
    cdef uint64_t digits = 0
    cdef Py_ssize_t at = read_digits(content, first, &digits)
    cdef Py_ssize_t count = at - first, power = 0, point, start
    cdef bint naught = byte(content, first) == c'0'
    if count == 0 or count > MOST_DIGITS or (naught and count > 1):
        return 0
    if byte(content, at) == c'.':
        point = start = at + 1
        if naught:  # zeros in front do not count
            count = 0
            while byte(content, start) == c'0':
                start += 1
        at = read_digits(content, start, &digits)
        count += at - start
        power = point - at
        if power == 0:
            return 0
    if byte(content, at) | 32 == c'e':
        at = read_exponent(content, at + 1, &power)
    number[0] = scaled(digits, power)
    return at if count <= MOST_DIGITS and number[0] < 2.0**53 else 0


cdef inline bint is_null(Content content, Py_ssize_t at) noexcept nogil:
    return <uint32_t>eight(content, at) == 0x6C6C756E  # "null"


cdef inline Py_ssize_t read_value(Content content, Py_ssize_t at, double* number) noexcept nogil:
    """Read a number, or null as NaN."""
    cdef bint negative = byte(content, at) == c'-'
    cdef Py_ssize_t end = read_number(content, at + negative, number)
    if negative:
        number[0] = -number[0]
    elif end == 0 and is_null(content, at):
        end, number[0] = at + 4, NAN
    return end


cdef inline Py_ssize_t read_text(Content content, Py_ssize_t at, int64_t* start, int64_t* length) noexcept nogil:
    """Read a string without escapes, or null as an empty one."""
    cdef uint64_t word, quotes, escapes, ends = 0
    start[0] = at + 1
    length[0] = 0
    if byte(content, at) != c'"':
        return at + 4 if is_null(content, at) else 0
    at -= 7
    while not ends:
        at += 8
        word = eight(content, at)
        quotes, escapes = word ^ EACH * c'"', word ^ EACH * c'\\'
        # the lowest bit tells the first quote, escape or control character, and others may tell too much
        ends = (((quotes - EACH) & ~quotes) | ((escapes - EACH) & ~escapes) | ((word - EACH * c' ') & ~word)) & TOPS
    at += trailing_zeros(ends) >> 3
    length[0] = at - start[0]
    return at + 1 if byte(content, at) == c'"' else 0


cdef inline Py_ssize_t after_space(Content content, Py_ssize_t at) noexcept nogil:
    cdef uint8_t found = byte(content, at)
    while found <= c' ' and (found == c' ' or found == c'\n' or found == c'\r' or found == c'\t'):
        at += 1
        found = byte(content, at)
    return at


def read_rows(const uint8_t[::1] content not None, Py_ssize_t first, Py_ssize_t last, const uint8_t[::1] textual not None):
    cdef Content given = content_of(content)
    cdef Py_ssize_t columns = textual.shape[0], rows = 0, at = first, row = 0, place, text, number
    cdef Py_ssize_t texts = 0
    for place in range(columns):
        texts += textual[place] != 0
    if columns == 0:
        return None
    given.size = max(0, min(given.size, last))
    for place in range(max(first, 0), given.size):
        rows += given.bytes[place] == c'['
    rows = min(rows, given.size // (2 * columns + 1))  # a row takes as many bytes, whatever strings hold brackets
    places = np.empty((2, texts, rows), np.int64)
    values = np.empty((columns - texts, rows))
    cdef int64_t[:, :, ::1] spots = places
    cdef double[:, ::1] numbers = values
    cdef bint whole = False
    with nogil:
        while row < rows and not whole:
            at = after_space(given, at)
            if byte(given, at) != c'[':
                break
            text = number = 0
            for place in range(columns):
                at = after_space(given, at + 1)
                if textual[place]:
                    at = read_text(given, at, &spots[0, text, row], &spots[1, text, row])
                    text += 1
                else:
                    at = read_value(given, at, &numbers[number, row])
                    number += 1
                if at == 0:
                    break
                at = after_space(given, at)
                if byte(given, at) != (c',' if place + 1 < columns else c']'):
                    at = 0
                    break
            if at == 0:
                break
            row += 1
            at = after_space(given, at + 1)
            whole = at == last
            if not whole and byte(given, at) != c',':
                break
            at += 1
    return (places[0, :, :row], places[1, :, :row], values[:, :row]) if whole else None
