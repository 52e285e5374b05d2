"""The innermost steps of the loops: each function becomes a few vector instructions wherever numba code calls it.

A row is given by its address in memory (int64, bytes), many rows by a base address and a list. Arguments they share:

    dim        head_dim, a compile-time constant
    base       address
    row_list   int64 array: where rows begin, in bytes from ``base``; where ``count`` of them are used, those up to the
               next multiple of GROUP must be rows, too (of zeros)
    weights    array of the rows' dtype
    packed     None, or an address: the rows that are read are also copied there, next to each other
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from videofib.attention.kernels.cpu.emitter import GROUP, I32, I64, LANES, Emitter

CACHE_LINE = 64  # bytes


@intrinsic(prefer_literal=True)
def scores(typingctx, dim, x, base, row_list, count, scale, fill, result, begin, packed):
    """result[begin + t] = scale · (row at x) · (row at row_list[t]) for t < count, and ``fill`` for t up to the next
    multiple of LANES. Returns the largest of them."""

    def codegen(context, builder, signature, arguments):
        _, x, base, row_list, count, scale, fill, result, begin, packed = arguments
        emit = Emitter(context, builder, signature.args[5], signature.args[0].literal_value)
        row_list, result = emit.data(signature.args[3], row_list), emit.data(signature.args[7], result)
        x, scale = emit.row(x), emit.splat(scale, GROUP)
        emit.store(emit.splat(fill), result, builder.add(begin, builder.and_(count, emit.int(-LANES))))
        fill = emit.splat(fill, GROUP)
        lane = ir.Constant(ir.VectorType(I64, GROUP), list(range(GROUP)))
        largest = emit.variable(fill)
        with emit.loop(emit.blocks(count, GROUP), GROUP) as t:
            ys = [emit.row(builder.add(base, emit.item(row_list, emit.plus(t, i)))) for i in range(GROUP)]
            if signature.args[9] != types.none:
                for i, y in enumerate(ys):
                    emit.store_row(y, packed, emit.plus(t, i))
            sums = emit.four_sums(*(emit.products(x, y) for y in ys))
            exists = builder.icmp_signed("<", lane, emit.splat(builder.sub(count, t), GROUP))
            values = builder.select(exists, emit.mul(sums, scale), fill)
            emit.store(values, result, builder.add(begin, t))
            builder.store(emit.maximum(values, builder.load(largest)), largest)
        return emit.max(builder.load(largest))

    return scale(dim, x, base, row_list, count, scale, fill, result, begin, packed), codegen


@intrinsic
def exponentiate(typingctx, x, begin, count, maximum):
    """x[begin + t] = exp(x[begin + t] - maximum) for t < count, up to the next multiple of LANES, where none is (much)
    above ``maximum``. Returns their sum."""

    def codegen(context, builder, signature, arguments):
        x, begin, count, maximum = arguments
        emit = Emitter(context, builder, signature.args[3])
        x, maximum, total = emit.data(signature.args[0], x), emit.splat(maximum), emit.variable(emit.full(0.0))
        with emit.loop(emit.blocks(count, LANES), LANES) as t:
            at = builder.add(begin, t)
            e = emit.exp(emit.sub(emit.load(x, at), maximum))
            emit.store(e, x, at)
            builder.store(emit.add(e, builder.load(total)), total)
        return emit.sum(builder.load(total))

    return maximum(x, begin, count, maximum), codegen


@intrinsic
def softmax_gradient(typingctx, p, p_begin, c, c_begin, count, delta, scale):
    """c[c_begin + t] = p[p_begin + t] · (c[c_begin + t] - delta) · scale for t < count, up to the next multiple of
    LANES."""

    def codegen(context, builder, signature, arguments):
        p, p_begin, c, c_begin, count, delta, scale = arguments
        emit = Emitter(context, builder, signature.args[6])
        p, c = emit.data(signature.args[0], p), emit.data(signature.args[2], c)
        delta, scale = emit.splat(delta), emit.splat(scale)
        with emit.loop(emit.blocks(count, LANES), LANES) as t:
            at = builder.add(c_begin, t)
            difference = emit.sub(emit.load(c, at), delta)
            emit.store(emit.mul(emit.mul(emit.load(p, builder.add(p_begin, t)), difference), scale), c, at)
        return context.get_dummy_value()

    return types.void(p, p_begin, c, c_begin, count, delta, scale), codegen


@intrinsic(prefer_literal=True)
def weighted_sum(typingctx, dim, weights, begin, index, base, row_list, count, factor, target, packed):
    """Row at ``target`` = factor · Σ weights[begin + t] · (row at row_list[t]), t < count; with an array ``index``, the
    weights are gathered: weights[begin + index[t]]. Those up to the next multiple of GROUP must be 0."""

    def codegen(context, builder, signature, arguments):
        _, weights, begin, index, base, row_list, count, factor, target, packed = arguments
        emit = Emitter(context, builder, signature.args[7], signature.args[0].literal_value)
        weights, row_list = emit.data(signature.args[1], weights), emit.data(signature.args[5], row_list)
        index = None if signature.args[3] == types.none else emit.data(signature.args[3], index)
        sums = [
            [emit.variable(emit.full(0.0)) for _ in emit.pieces] for _ in range(2)
        ]  # two shorter chains of additions
        with emit.loop(emit.blocks(count, GROUP), GROUP) as first:
            for i in range(GROUP):
                t = emit.plus(first, i)
                weight = emit.splat(emit.item(weights, builder.add(begin, t if index is None else emit.item(index, t))))
                row = emit.row(builder.add(base, emit.item(row_list, t)))
                if signature.args[9] != types.none:
                    emit.store_row(row, packed, t)
                for total, x in zip(sums[i % 2], row, strict=True):
                    builder.store(emit.mul_add(weight, x, builder.load(total)), total)
        factor = emit.splat(factor)
        emit.store_row(
            [emit.mul(factor, emit.add(builder.load(a), builder.load(b))) for a, b in zip(*sums, strict=True)], target
        )
        return context.get_dummy_value()

    return types.void(dim, weights, begin, index, base, row_list, count, factor, target, packed), codegen


@intrinsic
def scatter(typingctx, x, begin, width, count, columns, result, first, index):
    """result[index[t] + first + i] = x[begin + i · width + t] for i < count, up to the next multiple of LANES, and
    t < columns, up to the next multiple of GROUP: a matrix, column by column."""

    def codegen(context, builder, signature, arguments):
        x, begin, width, count, columns, result, first, index = arguments
        emit = Emitter(context, builder, signature.args[0].dtype)
        x, result = emit.data(signature.args[0], x), emit.data(signature.args[5], result)
        index = emit.data(signature.args[7], index)
        with emit.loop(emit.blocks(count, LANES), LANES) as i:
            corner = builder.add(begin, builder.mul(i, width))
            with emit.loop(emit.blocks(columns, GROUP), GROUP) as t:
                starts = [builder.add(corner, builder.add(t, builder.mul(width, emit.int(r)))) for r in range(LANES)]
                for column, values in enumerate(emit.columns([builder.gep(x, [start]) for start in starts])):
                    start = emit.item(index, emit.plus(t, column))
                    emit.store(values, result, builder.add(start, builder.add(first, i)))
        return context.get_dummy_value()

    return types.void(x, begin, width, count, columns, result, first, index), codegen


@intrinsic(prefer_literal=True)
def dot(typingctx, dim, x, y, scale):
    """scale · (row at x) · (row at y)."""

    def codegen(context, builder, signature, arguments):
        _, x, y, scale = arguments
        emit = Emitter(context, builder, signature.args[3], signature.args[0].literal_value)
        return emit.mul(scale, emit.sum(emit.products(emit.row(x), emit.row(y))))

    return scale(dim, x, y, scale), codegen


@intrinsic(prefer_literal=True)
def prefetch(typingctx, size, address, to_write):
    """Prefetch ``size`` bytes at an address into the cache; an invalid address does no harm."""

    def codegen(context, builder, signature, arguments):
        size, address, _ = arguments
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
        instruction = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        options = [ir.Constant(I32, x) for x in (signature.args[2].literal_value, 3, 1)]
        with cgutils.for_range_slice(builder, ir.Constant(I64, 0), size, ir.Constant(I64, CACHE_LINE)) as (start, _):
            builder.call(instruction, [builder.inttoptr(builder.add(address, start), pointer), *options])
        return context.get_dummy_value()

    return types.void(size, address, to_write), codegen


@intrinsic
def normalise(typingctx, sums, maxima, count):
    """maxima[t] += log(sums[t]) and sums[t] = 1 / sums[t] for t < count, up to the next multiple of LANES: a softmax's
    log-sum-exp, and the factor of its weights."""

    def codegen(context, builder, signature, arguments):
        sums, maxima, count = arguments
        emit = Emitter(context, builder, signature.args[0].dtype)
        sums, maxima = emit.data(signature.args[0], sums), emit.data(signature.args[1], maxima)
        with emit.loop(emit.blocks(count, LANES), LANES) as t:
            x = emit.load(sums, t)
            emit.store(emit.add(emit.load(maxima, t), emit.log(x)), maxima, t)
            emit.store(builder.fdiv(emit.full(1.0), x), sums, t)
        return context.get_dummy_value()

    return types.void(sums, maxima, count), codegen
