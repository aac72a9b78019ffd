"""Arrays that a kernel knows by their address: for calls so short that unboxing their arguments would be most of them.

A tuple of a dozen arrays takes numba some 5 microseconds to take apart, and 60 after a model has swept the caches; one
array of their addresses takes 2 and 4. Whoever passes an address keeps what lies there alive.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int64
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array


def addresses(arrays: Iterable[np.ndarray]) -> Int64[np.ndarray, " 2*arrays"]:
    """Address and length of each array, which must be contiguous and of one axis."""
    return np.array([number for array in arrays for number in (array.ctypes.data, len(array))], np.int64)


def _array_at(_typing: Any, address: Any, length: Any, dtype: Any) -> Any:
    """In a kernel: the read-only array of so many values at an address."""
    kind = types.Array(dtype.dtype, 1, "C", readonly=True)

    def code(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        array = context.make_array(kind)(context, builder)
        size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
        item = context.get_constant(types.intp, size)
        pointer = builder.inttoptr(values[0], array.data.type)
        shape, strides = (cgutils.pack_array(builder, [value]) for value in (values[1], item))
        populate_array(array, data=pointer, shape=shape, strides=strides, itemsize=item, meminfo=None)
        return array._getvalue()

    return kind(types.int64, types.int64, dtype), code


array_at: Any = intrinsic(_array_at)
