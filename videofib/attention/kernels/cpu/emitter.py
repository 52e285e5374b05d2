"""Vector instructions in LLVM, for rows of head_dim numbers: what numba's own loops leave to LLVM's guess, spelled out.

A vector has LANES numbers; LLVM splits it into what the processor has, so that the same code serves AVX-512, AVX2 and
NEON. The order of every sum and each fused multiply-add are spelled out, too: LLVM may reorder nothing, and all that it
makes of this code, serial or threaded, just compiled or loaded from disk, gives the same bits on one kind of processor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llvmlite import ir
from numba import types
from numba.core import cgutils

LANES = 16
GROUP = 4  # rows worked on at a time
I32, I64 = ir.IntType(32), ir.IntType(64)


class Emitter:
    """Emits vector instructions for numbers of one type, and rows of ``dim`` of them."""

    def __init__(self, context, builder, dtype: types.Float, dim: int = LANES):
        self.context, self.builder = context, builder
        self.number = context.get_data_type(dtype)
        self.bits = dtype.bitwidth
        self.vector = ir.VectorType(self.number, LANES)
        self.row_size = dim * self.bits // 8  # bytes
        self.pieces = [(start, min(LANES, dim - start)) for start in range(0, dim, LANES)]

    # constants, integers, loops

    def full(self, value: float) -> ir.Constant:
        return ir.Constant(self.vector, [value] * LANES)

    def int(self, value: int) -> ir.Constant:
        return ir.Constant(I64, value)

    def plus(self, a, value: int):
        return self.builder.add(a, self.int(value))

    def blocks(self, count, size: int):
        """count / size, rounded up."""
        return self.builder.sdiv(self.plus(count, size - 1), self.int(size))

    @contextmanager
    def loop(self, count, step: int = 1) -> Iterator:
        with cgutils.for_range(self.builder, count) as loop:
            yield self.builder.mul(loop.index, self.int(step))

    def variable(self, value):
        """A variable that holds ``value`` at first; LLVM makes it a register."""
        return cgutils.alloca_once_value(self.builder, value)

    # memory

    def data(self, array_type, array):
        return self.context.make_array(array_type)(self.context, self.builder, array).data

    def item(self, pointer, index):
        return self.builder.load(self.builder.gep(pointer, [index]))

    def load(self, pointer, index):
        return self._load(self.builder.gep(pointer, [index]), LANES)

    def store(self, x, pointer, index) -> None:
        self._store(x, self.builder.gep(pointer, [index]), x.type.count)

    def row(self, address) -> list:
        """The row at an address as vectors, the last padded with zeros."""
        return [self._padded(self._load(self._pointer(address, start), length)) for start, length in self.pieces]

    def store_row(self, row: list, address, index=None) -> None:
        """Write a row at an address, or as row ``index`` of a matrix that begins there."""
        if index is not None:
            address = self.builder.add(address, self.builder.mul(index, self.int(self.row_size)))
        for x, (start, length) in zip(row, self.pieces, strict=True):
            self._store(x, self._pointer(address, start), length)

    def _pointer(self, address, start: int):
        return self.builder.inttoptr(self.plus(address, start * self.bits // 8), self.number.as_pointer())

    def _load(self, pointer, length: int):
        kind = ir.VectorType(self.number, length)
        return self.builder.load(self.builder.bitcast(pointer, kind.as_pointer()), align=self.bits // 8)

    def _padded(self, x):
        """x, and zeros up to LANES numbers."""
        length = x.type.count
        if length == LANES:
            return x
        return self.shuffle(x, ir.Constant(x.type, [0.0] * length), [*range(length), *[length] * (LANES - length)])

    def _store(self, x, pointer, length: int) -> None:
        x = x if length == x.type.count else self.shuffle(x, x, range(length))
        self.builder.store(x, self.builder.bitcast(pointer, x.type.as_pointer()), align=self.bits // 8)

    # arithmetic

    def shuffle(self, a, b, order: Sequence[int]):
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(order)), list(order)))

    def splat(self, number, lanes: int = LANES):
        undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(I32, 0))
        return self.shuffle(first, undefined, [0] * lanes)

    def add(self, a, b):
        return self.builder.fadd(a, b)

    def sub(self, a, b):
        return self.builder.fsub(a, b)

    def mul(self, a, b):
        return self.builder.fmul(a, b)

    def mul_add(self, a, b, c):
        """a · b + c, rounded once where the processor has an instruction for it."""
        return self._call("llvm.fmuladd", self.vector, a, b, c)

    def maximum(self, a, b):
        """The larger of a and b; b if a is NaN."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def sum(self, x):
        for distance in (8, 4, 2, 1):
            x = self.add(x, self.shuffle(x, x, [i ^ distance for i in range(LANES)]))
        return self.builder.extract_element(x, ir.Constant(I32, 0))

    def max(self, x):
        """The largest number of a vector of GROUP."""
        for distance in (2, 1):
            x = self.maximum(self.shuffle(x, x, [i ^ distance for i in range(GROUP)]), x)
        return self.builder.extract_element(x, ir.Constant(I32, 0))

    def _call(self, name: str, result, *arguments):
        kind = ir.FunctionType(result, [x.type for x in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"{name}.v{LANES}f{self.bits}")
        return self.builder.call(function, arguments)

    def products(self, a: list, b: list):
        """A vector whose sum is the dot product of two rows."""
        total = self.mul(a[0], b[0])
        for x, y in zip(a[1:], b[1:], strict=True):
            total = self.mul_add(x, y, total)
        return total

    def four_sums(self, a, b, c, d):
        """The sums of four vectors, in a vector of GROUP: halves are folded until one number of each is left."""
        x = self.fold(self.fold(a, c, 8), self.fold(b, d, 8), 4)
        for distance in (2, 1):
            x = self.add(x, self.shuffle(x, x, [i ^ distance for i in range(LANES)]))
        return self.shuffle(x, x, range(0, LANES, GROUP))

    def fold(self, a, b, half: int):
        """In every 2 · half lanes, the sums of a's halves, then those of b's. Numbers that keep their lane are blended,
        for which a processor has more units than for shuffles."""
        stay = [i if i & half == 0 else LANES + i for i in range(LANES)]
        return self.add(self.shuffle(a, b, stay), self.shuffle(a, b, [i ^ half for i in stay]))

    def columns(self, pointers: list) -> list:
        """The columns of a matrix of LANES rows of GROUP numbers: a transpose in registers."""
        rows = [self._load(pointer, GROUP) for pointer in pointers]
        halves = [self.shuffle(rows[i], rows[i + GROUP], range(8)) for i in (0, 8, 1, 9, 2, 10, 3, 11)]
        a, b, c, d = (self.shuffle(x, y, range(LANES)) for x, y in zip(halves[::2], halves[1::2], strict=True))
        return [
            self.interleave(self.interleave(a, b, i, 1), self.interleave(c, d, i, 1), j, 2)
            for i in (0, 2)
            for j in (0, 2)
        ]

    def interleave(self, a, b, start: int, length: int):
        """In every GROUP lanes: ``length`` of a from ``start`` on, as many of b, and so on, alternating."""
        order = [start + x + i for x in (0, LANES, length, LANES + length) for i in range(length)][:GROUP]
        return self.shuffle(a, b, [group + i for group in range(0, LANES, GROUP) for i in order])

    def exp(self, x):
        """exp of x <= 0; 0 where it would be below the smallest normal number, about 1e-38 or 1e-308.

        exp(x) = 2^n · e^r, n the integer next to x / ln 2, e^r by its Taylor polynomial, |r| <= ln(2) / 2.
        """
        if self.bits == 32:
            lowest, degree, integer, bias, mantissa = -87.0, 7, I32, 127, 23
            ln2 = (0.693359375, -2.12194440e-4)  # in two parts, to lose no digits
        else:
            lowest, degree, integer, bias, mantissa = -708.0, 13, I64, 1023, 52
            ln2 = (0.6931471803691238, 1.9082149292705877e-10)
        underflows = self.builder.fcmp_ordered("<", x, self.full(lowest))
        x = self.builder.select(underflows, self.full(lowest), x)
        n = self._call("llvm.floor", self.vector, self.mul_add(x, self.full(1 / math.log(2)), self.full(0.5)))
        r = x
        for part in ln2:
            r = self.mul_add(n, self.full(-part), r)
        e = self.full(1 / math.factorial(degree))
        for k in reversed(range(degree)):
            e = self.mul_add(e, r, self.full(1 / math.factorial(k)))
        integers = ir.VectorType(integer, LANES)
        power = self.builder.add(self.builder.fptosi(n, integers), ir.Constant(integers, [bias] * LANES))
        power = self.builder.bitcast(self.builder.shl(power, ir.Constant(integers, [mantissa] * LANES)), self.vector)
        return self.builder.select(underflows, self.full(0.0), self.mul(e, power))

    def log(self, x):
        """log of a normal number x > 0; NaN and infinity stay what they are.

        log(x) = n ln 2 + log(m), sqrt(1/2) <= m < sqrt(2), log(m) = 2 artanh(s) by its Taylor polynomial,
        s = (m - 1) / (m + 1), |s| < 0.172.
        """
        degree, integer, mantissa = (9, I32, 23) if self.bits == 32 else (21, I64, 52)
        integers = ir.VectorType(integer, LANES)
        bits, root = (self.builder.bitcast(y, integers) for y in (x, self.full(math.sqrt(0.5))))
        shift = ir.Constant(integers, [mantissa] * LANES)
        n = self.builder.ashr(self.builder.sub(bits, root), shift)
        m = self.builder.bitcast(self.builder.sub(bits, self.builder.shl(n, shift)), self.vector)
        s = self.builder.fdiv(self.sub(m, self.full(1.0)), self.add(m, self.full(1.0)))
        square = self.mul(s, s)
        series = self.full(2 / degree)
        for k in range(degree - 2, 0, -2):
            series = self.mul_add(series, square, self.full(2 / k))
        result = self.mul_add(self.builder.sitofp(n, self.vector), self.full(math.log(2)), self.mul(s, series))
        return self.builder.select(self.builder.fcmp_ordered("<", x, self.full(math.inf)), result, x)
