"""Vector code for rows of head_dim numbers: what numba's own loops leave to chance, spelt out in LLVM.

Each function below becomes a few vector instructions wherever numba code calls it. A row is given by its address in
memory (int64, bytes), many rows by a list of places. A vector has LANES numbers; LLVM splits it into what the processor
has, so that the same code serves AVX-512, AVX2 and NEON. The order of every sum and each fused multiply-add are spelt
out too: LLVM may reorder nothing, and all that it makes of this code, with threads and without, compiled here or kept
on disk, gives the same bits on one kind of processor.

Arguments they share:

    dim       head_dim, a compile-time constant
    rows      address
    places    int64 array: where rows lie, in bytes from ``rows``; where ``count`` of them are used, those up to the
              next multiple of GROUP must be places of rows too (of zeros)
    weights   array of the rows' dtype
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
GROUP = 4  # rows worked on at a time
CACHE_LINE = 64  # bytes

_I32, _I64 = ir.IntType(32), ir.IntType(64)


class _Emitter:
    """Writes vector instructions for numbers of one type, and rows of ``dim`` of them."""

    def __init__(self, context, builder, dtype: types.Float, dim: int = LANES):
        self.context, self.builder = context, builder
        self.number = context.get_data_type(dtype)
        self.bits = dtype.bitwidth
        self.vector = ir.VectorType(self.number, LANES)
        self.row_size = dim * self.bits // 8  # bytes
        self.pieces = [(start, min(LANES, dim - start)) for start in range(0, dim, LANES)]

    # constants, integers, loops

    def all(self, value: float) -> ir.Constant:
        return ir.Constant(self.vector, [value] * LANES)

    def int(self, value: int) -> ir.Constant:
        return ir.Constant(_I64, value)

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
        """A place that holds ``value`` now and others later; a register in the end."""
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
        """The row at an address as vectors, the last filled up with zeros."""
        return [self._filled(self._load(self._pointer(address, start), length)) for start, length in self.pieces]

    def put(self, row: list, address, index=None) -> None:
        """Write a row at an address, or where row ``index`` is of rows side by side from there on."""
        if index is not None:
            address = self.builder.add(address, self.builder.mul(index, self.int(self.row_size)))
        for x, (start, length) in zip(row, self.pieces, strict=True):
            self._store(x, self._pointer(address, start), length)

    def _pointer(self, address, start: int):
        return self.builder.inttoptr(self.plus(address, start * self.bits // 8), self.number.as_pointer())

    def _load(self, pointer, length: int):
        kind = ir.VectorType(self.number, length)
        return self.builder.load(self.builder.bitcast(pointer, kind.as_pointer()), align=self.bits // 8)

    def _filled(self, x):
        """x and zeros behind it."""
        length = x.type.count
        if length == LANES:
            return x
        return self.shuffle(x, ir.Constant(x.type, [0.0] * length), [*range(length), *[length] * (LANES - length)])

    def _store(self, x, pointer, length: int) -> None:
        x = x if length == x.type.count else self.shuffle(x, x, range(length))
        self.builder.store(x, self.builder.bitcast(pointer, x.type.as_pointer()), align=self.bits // 8)

    # arithmetic

    def shuffle(self, a, b, order: Sequence[int]):
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(order)), list(order)))

    def splat(self, number, lanes: int = LANES):
        nothing = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
        return self.shuffle(self.builder.insert_element(nothing, number, ir.Constant(_I32, 0)), nothing, [0] * lanes)

    def add(self, a, b):
        return self.builder.fadd(a, b)

    def sub(self, a, b):
        return self.builder.fsub(a, b)

    def mul(self, a, b):
        return self.builder.fmul(a, b)

    def mul_add(self, a, b, c):
        """a · b + c, rounded once where the processor has an instruction for it."""
        return self._call("llvm.fmuladd", self.vector, a, b, c)

    def larger(self, a, b):
        """Of a and b; b if a is NaN."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def sum(self, x):
        for distance in (8, 4, 2, 1):
            x = self.add(x, self.shuffle(x, x, [i ^ distance for i in range(LANES)]))
        return self.builder.extract_element(x, ir.Constant(_I32, 0))

    def largest(self, x):
        """Of the numbers in a vector of GROUP."""
        for distance in (2, 1):
            x = self.larger(self.shuffle(x, x, [i ^ distance for i in range(GROUP)]), x)
        return self.builder.extract_element(x, ir.Constant(_I32, 0))

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
        """The sums of four vectors, in one of GROUP: halves are folded until one number of each is left."""
        x = self.fold(self.fold(a, c, 8), self.fold(b, d, 8), 4)
        for distance in (2, 1):
            x = self.add(x, self.shuffle(x, x, [i ^ distance for i in range(LANES)]))
        return self.shuffle(x, x, range(0, LANES, GROUP))

    def fold(self, a, b, half: int):
        """In every 2 · half lanes, the sums of a's halves, then those of b's. What keeps its lane is blended, which
        more units of a processor can do than shuffle."""
        stay = [i if i & half == 0 else LANES + i for i in range(LANES)]
        return self.add(self.shuffle(a, b, stay), self.shuffle(a, b, [i ^ half for i in stay]))

    def columns(self, pointers: list) -> list:
        """The columns of a table of LANES rows of GROUP numbers."""
        rows = [self._load(pointer, GROUP) for pointer in pointers]
        halves = [self.shuffle(rows[i], rows[i + GROUP], range(8)) for i in (0, 8, 1, 9, 2, 10, 3, 11)]
        a, b, c, d = (self.shuffle(x, y, range(LANES)) for x, y in zip(halves[::2], halves[1::2], strict=True))
        return [
            self.interleave(self.interleave(a, b, i, 1), self.interleave(c, d, i, 1), j, 2)
            for i in (0, 2)
            for j in (0, 2)
        ]

    def interleave(self, a, b, start: int, length: int):
        """In every GROUP lanes: ``length`` of a from ``start`` on, as many of b, and so on in turn."""
        order = [start + x + i for x in (0, LANES, length, LANES + length) for i in range(length)][:GROUP]
        return self.shuffle(a, b, [group + i for group in range(0, LANES, GROUP) for i in order])

    def exp(self, x):
        """exp of x <= 0; 0 where it would be below the smallest normal number, about 1e-38 or 1e-308.

        exp(x) = 2^n · e^r, n the integer next to x / ln 2, e^r by its Taylor polynomial, |r| <= ln(2) / 2.
        """
        if self.bits == 32:
            lowest, degree, whole, bias, mantissa = -87.0, 7, _I32, 127, 23
            ln2 = (0.693359375, -2.12194440e-4)  # in two parts, to lose no digits
        else:
            lowest, degree, whole, bias, mantissa = -708.0, 13, _I64, 1023, 52
            ln2 = (0.6931471803691238, 1.9082149292705877e-10)
        vanishes = self.builder.fcmp_ordered("<", x, self.all(lowest))
        x = self.builder.select(vanishes, self.all(lowest), x)
        n = self._call("llvm.floor", self.vector, self.mul_add(x, self.all(1 / math.log(2)), self.all(0.5)))
        r = x
        for part in ln2:
            r = self.mul_add(n, self.all(-part), r)
        e = self.all(1 / math.factorial(degree))
        for k in reversed(range(degree)):
            e = self.mul_add(e, r, self.all(1 / math.factorial(k)))
        wholes = ir.VectorType(whole, LANES)
        power = self.builder.add(self.builder.fptosi(n, wholes), ir.Constant(wholes, [bias] * LANES))
        power = self.builder.bitcast(self.builder.shl(power, ir.Constant(wholes, [mantissa] * LANES)), self.vector)
        return self.builder.select(vanishes, self.all(0.0), self.mul(e, power))

    def log(self, x):
        """log of a normal number x > 0; NaN and infinity stay what they are.

        log(x) = n ln 2 + log(m), sqrt(1/2) <= m < sqrt(2), log(m) = 2 artanh(s) by its Taylor polynomial,
        s = (m - 1) / (m + 1), |s| < 0.172.
        """
        degree, whole, mantissa = (9, _I32, 23) if self.bits == 32 else (21, _I64, 52)
        wholes = ir.VectorType(whole, LANES)
        bits, root = (self.builder.bitcast(y, wholes) for y in (x, self.all(math.sqrt(0.5))))
        shift = ir.Constant(wholes, [mantissa] * LANES)
        n = self.builder.ashr(self.builder.sub(bits, root), shift)
        m = self.builder.bitcast(self.builder.sub(bits, self.builder.shl(n, shift)), self.vector)
        s = self.builder.fdiv(self.sub(m, self.all(1.0)), self.add(m, self.all(1.0)))
        square = self.mul(s, s)
        series = self.all(2 / degree)
        for k in range(degree - 2, 0, -2):
            series = self.mul_add(series, square, self.all(2 / k))
        result = self.mul_add(self.builder.sitofp(n, self.vector), self.all(math.log(2)), self.mul(s, series))
        return self.builder.select(self.builder.fcmp_ordered("<", x, self.all(math.inf)), result, x)


@intrinsic(prefer_literal=True)
def score(typingctx, dim, x, rows, places, count, scale, missing, result, begin, copies):
    """result[begin + t] = scale · (row at x) · (row at places[t]) for t < count, and ``missing`` for the t up to the
    next multiple of LANES. Returns the largest of them. With an address ``copies``, rows are also copied there, side by
    side, up to the next multiple of GROUP."""

    def codegen(context, builder, signature, arguments):
        _, x, rows, places, count, scale, missing, result, begin, copies = arguments
        emit = _Emitter(context, builder, signature.args[5], signature.args[0].literal_value)
        places, result = emit.data(signature.args[3], places), emit.data(signature.args[7], result)
        x, scale, nothing = emit.row(x), emit.splat(scale, GROUP), emit.splat(missing)
        emit.store(nothing, result, builder.add(begin, builder.and_(count, emit.int(-LANES))))
        missing = emit.splat(missing, GROUP)
        lane = ir.Constant(ir.VectorType(_I64, GROUP), list(range(GROUP)))
        top = emit.variable(missing)
        with emit.loop(emit.blocks(count, GROUP), GROUP) as t:
            ys = [emit.row(builder.add(rows, emit.item(places, emit.plus(t, i)))) for i in range(GROUP)]
            if signature.args[9] != types.none:
                for i, y in enumerate(ys):
                    emit.put(y, copies, emit.plus(t, i))
            sums = emit.four_sums(*(emit.products(x, y) for y in ys))
            exists = builder.icmp_signed("<", lane, emit.splat(builder.sub(count, t), GROUP))
            values = builder.select(exists, emit.mul(sums, scale), missing)
            emit.store(values, result, builder.add(begin, t))
            builder.store(emit.larger(values, builder.load(top)), top)
        return emit.largest(builder.load(top))

    return scale(dim, x, rows, places, count, scale, missing, result, begin, copies), codegen


@intrinsic
def exponentiate(typingctx, x, begin, count, top):
    """x[begin + t] = exp(x[begin + t] - top) for t < count, up to the next multiple of LANES, where none is (much)
    above top. Returns their sum."""

    def codegen(context, builder, signature, arguments):
        x, begin, count, top = arguments
        emit = _Emitter(context, builder, signature.args[3])
        x, top, total = emit.data(signature.args[0], x), emit.splat(top), emit.variable(emit.all(0.0))
        with emit.loop(emit.blocks(count, LANES), LANES) as t:
            at = builder.add(begin, t)
            e = emit.exp(emit.sub(emit.load(x, at), top))
            emit.store(e, x, at)
            builder.store(emit.add(e, builder.load(total)), total)
        return emit.sum(builder.load(total))

    return top(x, begin, count, top), codegen


@intrinsic
def differentiate(typingctx, p, p_begin, c, c_begin, count, delta, scale):
    """c[c_begin + t] = p[p_begin + t] · (c[c_begin + t] - delta) · scale for t < count, up to the next multiple of
    LANES."""

    def codegen(context, builder, signature, arguments):
        p, p_begin, c, c_begin, count, delta, scale = arguments
        emit = _Emitter(context, builder, signature.args[6])
        p, c = emit.data(signature.args[0], p), emit.data(signature.args[2], c)
        delta, scale = emit.splat(delta), emit.splat(scale)
        with emit.loop(emit.blocks(count, LANES), LANES) as t:
            at = builder.add(c_begin, t)
            difference = emit.sub(emit.load(c, at), delta)
            emit.store(emit.mul(emit.mul(emit.load(p, builder.add(p_begin, t)), difference), scale), c, at)
        return context.get_dummy_value()

    return types.void(p, p_begin, c, c_begin, count, delta, scale), codegen


@intrinsic(prefer_literal=True)
def weighted_sum(typingctx, dim, weights, begin, spots, rows, places, count, factor, target, copies):
    """Row at ``target`` = factor · Σ weights[begin + t] · (row at places[t]), t < count; with an array ``spots``,
    weights[begin + spots[t]]. Weights up to the next multiple of GROUP must be 0. ``copies`` as in ``score``."""

    def codegen(context, builder, signature, arguments):
        _, weights, begin, spots, rows, places, count, factor, target, copies = arguments
        emit = _Emitter(context, builder, signature.args[7], signature.args[0].literal_value)
        weights, places = emit.data(signature.args[1], weights), emit.data(signature.args[5], places)
        spots = None if signature.args[3] == types.none else emit.data(signature.args[3], spots)
        sums = [[emit.variable(emit.all(0.0)) for _ in emit.pieces] for _ in range(2)]  # two, to wait less
        with emit.loop(emit.blocks(count, GROUP), GROUP) as first:
            for i in range(GROUP):
                t = emit.plus(first, i)
                weight = emit.splat(emit.item(weights, builder.add(begin, t if spots is None else emit.item(spots, t))))
                row = emit.row(builder.add(rows, emit.item(places, t)))
                if signature.args[9] != types.none:
                    emit.put(row, copies, t)
                for total, x in zip(sums[i % 2], row, strict=True):
                    builder.store(emit.mul_add(weight, x, builder.load(total)), total)
        factor = emit.splat(factor)
        emit.put(
            [emit.mul(factor, emit.add(builder.load(a), builder.load(b))) for a, b in zip(*sums, strict=True)], target
        )
        return context.get_dummy_value()

    return types.void(dim, weights, begin, spots, rows, places, count, factor, target, copies), codegen


@intrinsic
def spread(typingctx, x, begin, width, count, columns, result, first, spots):
    """result[spots[t] + first + i] = x[begin + i · width + t] for i < count, up to the next multiple of LANES, and
    t < columns, up to the next multiple of GROUP: the columns of a table, each to a place of its own."""

    def codegen(context, builder, signature, arguments):
        x, begin, width, count, columns, result, first, spots = arguments
        emit = _Emitter(context, builder, signature.args[0].dtype)
        x, result = emit.data(signature.args[0], x), emit.data(signature.args[5], result)
        spots = emit.data(signature.args[7], spots)
        with emit.loop(emit.blocks(count, LANES), LANES) as i:
            corner = builder.add(begin, builder.mul(i, width))
            with emit.loop(emit.blocks(columns, GROUP), GROUP) as t:
                starts = [builder.add(corner, builder.add(t, builder.mul(width, emit.int(r)))) for r in range(LANES)]
                for column, values in enumerate(emit.columns([builder.gep(x, [start]) for start in starts])):
                    place = emit.item(spots, emit.plus(t, column))
                    emit.store(values, result, builder.add(place, builder.add(first, i)))
        return context.get_dummy_value()

    return types.void(x, begin, width, count, columns, result, first, spots), codegen


@intrinsic(prefer_literal=True)
def dot(typingctx, dim, x, y, scale):
    """scale · (row at x) · (row at y)."""

    def codegen(context, builder, signature, arguments):
        _, x, y, scale = arguments
        emit = _Emitter(context, builder, signature.args[3], signature.args[0].literal_value)
        return emit.mul(scale, emit.sum(emit.products(emit.row(x), emit.row(y))))

    return scale(dim, x, y, scale), codegen


@intrinsic(prefer_literal=True)
def fetch(typingctx, size, address, to_write):
    """Ask for ``size`` bytes at an address ahead of their use; a wrong address does no harm."""

    def codegen(context, builder, signature, arguments):
        size, address, _ = arguments
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        options = [ir.Constant(_I32, x) for x in (signature.args[2].literal_value, 3, 1)]
        with cgutils.for_range_slice(builder, ir.Constant(_I64, 0), size, ir.Constant(_I64, CACHE_LINE)) as (start, _):
            builder.call(prefetch, [builder.inttoptr(builder.add(address, start), pointer), *options])
        return context.get_dummy_value()

    return types.void(size, address, to_write), codegen


@intrinsic
def normalise(typingctx, sums, tops, count):
    """tops[t] += log(sums[t]) and sums[t] = 1 / sums[t] for t < count, up to the next multiple of LANES."""

    def codegen(context, builder, signature, arguments):
        sums, tops, count = arguments
        emit = _Emitter(context, builder, signature.args[0].dtype)
        sums, tops = emit.data(signature.args[0], sums), emit.data(signature.args[1], tops)
        with emit.loop(emit.blocks(count, LANES), LANES) as t:
            x = emit.load(sums, t)
            emit.store(emit.add(emit.load(tops, t), emit.log(x)), tops, t)
            emit.store(builder.fdiv(emit.all(1.0), x), sums, t)
        return context.get_dummy_value()

    return types.void(sums, tops, count), codegen
