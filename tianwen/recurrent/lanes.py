"""What numba lacks for loops over channels: multiply-add with one rounding, and arrays known not to overlap.

Post: 9554

LLVM turns a loop into vector instructions only if it can prove that no store changes what a later load reads. With a
dozen arrays it gives up. So each load and store here names a stream, a small number; two streams of one kernel never
touch the same memory, and that is told to LLVM. A state that is read and written is one stream.

A multiply-add is always one instruction with one rounding, never left to the compiler's choice. So a channel has the
same bits wherever it stands in a vector, and whatever the lengths of the chunks that a sequence is given in.

Rows that are too many for the cache are fetched before they are needed and written past the cache: a scan touches each
number once, so the memory is all there is to wait for.

bfloat16 arrays are given as uint16: their bits. Values are float32 as soon as they are loaded, and rounded to nearest,
ties to even, when they are stored.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numba.np import arrayobj

STREAMS = 24
LINE = 64
"""Bytes of a line of the cache."""
INT, LONG, FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()

emitted: Any = intrinsic
emitted_for_literals: Any = intrinsic(prefer_literal=True)  # pyright: ignore[reportCallIssue]


@emitted
def fma(typing, a, b, c):
    """a * b + c, rounded once."""

    def emit(context, builder, signature, args):
        return builder.fma(*args)

    return a(a, b, c), emit


@emitted
def fnma(typing, a, b, c):
    """c - a * b, rounded once."""

    def emit(context, builder, signature, args):
        return builder.fma(builder.fneg(args[0]), args[1], args[2])

    return a(a, b, c), emit


@emitted_for_literals
def load(typing, stream, array, index):
    """array[index] of a flat array, as a float; `stream` is a literal number."""
    half = array.dtype == types.uint16
    result = types.float32 if half else array.dtype

    def emit(context, builder, signature, args):
        value = _mark(builder, builder.load(_address(context, builder, signature.args[1], args)), stream.literal_value)
        return _widened(builder, value) if half else value

    return result(stream, array, index), emit


@emitted_for_literals
def store(typing, stream, array, index, value):
    """array[index] = value of a flat array, rounded to its dtype; `stream` is a literal number."""
    half = array.dtype == types.uint16

    def emit(context, builder, signature, args):
        stored = _narrowed(builder, args[3]) if half else args[3]
        _mark(builder, builder.store(stored, _address(context, builder, signature.args[1], args)), stream.literal_value)
        return context.get_dummy_value()

    taken = types.float32 if half else array.dtype
    return types.void(stream, array, index, taken), emit


@emitted
def prefetch(typing, array, index):
    """Ask for the line of array[index] to be brought to the second cache; the index may lie outside."""

    def emit(context, builder, signature, args):
        data = arrayobj.make_array(signature.args[0])(context, builder, args[0]).data
        address = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [address.type, INT, INT, INT])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
        builder.call(ask, [address, INT(0), INT(2), INT(1)])  # to read, into the second cache, of data
        return context.get_dummy_value()

    return types.void(array, index), emit


@emitted
def store_past_cache(typing, target, at, source, begin, count):
    """target[at:at + count] = source[begin:begin + count] of one dtype, in whole lines; target + at begins a line."""
    size = target.dtype.bitwidth // 8
    lanes = LINE // 4
    line = ir.VectorType(INT, lanes)

    def emit(context, builder, signature, args):
        to = arrayobj.make_array(signature.args[0])(context, builder, args[0]).data
        of = arrayobj.make_array(signature.args[2])(context, builder, args[2]).data
        with cgutils.for_range(builder, builder.udiv(args[4], LONG(LINE // size))) as loop:
            offset = builder.mul(loop.index, LONG(LINE // size))
            read = builder.bitcast(builder.gep(of, [builder.add(args[3], offset)]), line.as_pointer())
            written = builder.bitcast(builder.gep(to, [builder.add(args[1], offset)]), line.as_pointer())
            instruction = builder.store(builder.load(read, align=size), written, align=LINE)
            instruction.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(INT, 1)]))
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64, types.int64), emit


@emitted
def fence(typing):
    """Let nobody pass before all stores have arrived, those past the cache too."""

    def emit(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), emit


def _address(context: Any, builder: Any, array_type: Any, args: Any) -> Any:
    array = arrayobj.make_array(array_type)(context, builder, args[1])
    return builder.gep(array.data, [args[2]], inbounds=True)


def _mark(builder: Any, instruction: Any, stream: int) -> Any:
    """Say that this access is of one stream and of no other."""
    module = builder.module
    domain = module.add_metadata([ir.MetaDataString(module, "tianwen.lanes")])
    scopes = [module.add_metadata([ir.MetaDataString(module, f"stream {i}"), domain]) for i in range(STREAMS)]
    others = [scope for i, scope in enumerate(scopes) if i != stream]
    instruction.set_metadata("alias.scope", module.add_metadata([scopes[stream]]))
    instruction.set_metadata("noalias", module.add_metadata(others))
    return instruction


def _widened(builder: Any, bits: Any) -> Any:
    return builder.bitcast(builder.shl(builder.zext(bits, INT), INT(16)), FLOAT)


def _narrowed(builder: Any, value: Any) -> Any:
    bits = builder.bitcast(value, INT)
    odd = builder.and_(builder.lshr(bits, INT(16)), INT(1))
    rounded = builder.lshr(builder.add(builder.add(bits, INT(0x7FFF)), odd), INT(16))
    quiet = builder.or_(builder.lshr(bits, INT(16)), INT(0x40))  # rounding could carry a NaN's bits over to infinity
    chosen = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
    return builder.trunc(chosen, ir.IntType(16))


@emitted
def _power_of_two(typing, exponent):
    """2 ** exponent for whole float32 from -126 to 127."""

    def emit(context, builder, signature, args):
        biased = builder.add(builder.fptosi(args[0], INT), INT(127))
        return builder.bitcast(builder.shl(biased, INT(23)), FLOAT)

    return types.float32(types.float32), emit


def exponential(x):
    """exp(x) in the precision of x, within two units in the last place; in float32 for x cut to -87 .. 80."""
    return float(np.exp(x))


@overload(exponential)
def _exponential(x):
    if x == types.float64:
        return lambda x: math.exp(x)
    low, high = np.float32(-87), np.float32(80)
    log2e, magic = np.float32(1.44269504088896341), np.float32(12582912)  # 1.5 * 2^23: adding it rounds
    ln2_high, ln2_low = np.float32(0.693359375), np.float32(-2.12194440e-4)
    c5, c4, c3 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
    c2, c1, c0 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
    one = np.float32(1)

    def in_lanes(x):
        cut = low if x < low else x  # not max: a NaN stays one
        cut = high if cut > high else cut
        power = fma(cut, log2e, magic) - magic
        r = fnma(power, ln2_low, fnma(power, ln2_high, cut))  # between -ln2 / 2 and ln2 / 2
        p = fma(fma(fma(c5, r, c4), r, c3), r, c2)
        p = fma(fma(p, r, c1), r, c0)
        return fma(p, r * r, r + one) * _power_of_two(power)

    return in_lanes


def lanes_kernel(function: Any) -> Any:
    """Compile with numba, without the GIL, keeping the machine code on disk where some folder for it can be written."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # a read-only installation without a home: compile anew in each process
        return numba.njit(nogil=True, error_model="numpy")(function)


def lanes_inline(function: Any) -> Any:
    """A part of a kernel: compiled into each that calls it."""
    return numba.njit(inline="always", error_model="numpy")(function)
