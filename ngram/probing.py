"""What the compiled look-up tables share: where the search for a key begins, and asking for memory ahead of its use.

A static model's n-grams (arpa/index.py) and a vocabulary's words (word_table.py) are found by keys that are compared in full, so that nothing rests on
what is computed here.
"""

from typing import Any

import numpy as np
from numba import config

from ngram.arrays import Array
from ngram.compiled import njit

_FACTOR = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: Fibonacci hashing (Knuth, TAOCP 3, 6.4)

if config.DISABLE_JIT:  # type: ignore[attr-defined]  # plain integers: NumPy's would warn about the overflow that is wanted here

    def home(key: Any, places: int) -> int:
        return ((int(key) * _FACTOR & ((1 << 64) - 1)) >> 32) * int(places) >> 32

    def mixed(hashed: Any, more: Any) -> Any:
        return np.uint64((int(hashed) ^ int(more)) * _FACTOR & ((1 << 64) - 1))

    def prefetch(array: Array, place: int) -> None:
        """Plain Python has nothing to ask for."""

else:
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    _MULTIPLIER, _HALF = np.uint64(_FACTOR), np.uint64(32)
    _FOR_READING, _KEEP_NEAR, _DATA = 0, 3, 1  # the last three arguments of LLVM's intrinsic

    @njit(forceinline=True)
    def home(key: Any, places: int) -> int:
        """0 … places-1, of fewer than 2^32: where the search for a key of 64 bits begins."""
        return np.int64((((np.uint64(key) * _MULTIPLIER) >> _HALF) * np.uint64(places)) >> _HALF)

    @njit(forceinline=True)
    def mixed(hashed: Any, more: Any) -> Any:
        """A hash with 64 more bits in it, uint64; the last ones need only `^` before `home`."""
        return (np.uint64(hashed) ^ np.uint64(more)) * _MULTIPLIER

    @intrinsic  # type: ignore[misc]
    def prefetch(typing: Any, array: Any, place: Any) -> Any:
        """Asks for the cache line of array[place], one dimension; changes nothing, also where there is no such place."""

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
            number = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
            llvm_prefetch = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
            builder.call(llvm_prefetch, [address, number(_FOR_READING), number(_KEEP_NEAR), number(_DATA)])
            return context.get_dummy_value()

        return types.void(array, types.intp), code
