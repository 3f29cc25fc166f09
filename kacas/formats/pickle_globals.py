"""The few functions that a pickle may call while it is loaded, and what they make.

None is the real function of that name. A `Function` checks its arguments and takes no state. Arrays and
dtypes come as `Unfinished` until the pickle is read: pickles set the state of both after making them, and
NumPy's own `__setstate__` believes what it is given, sizes and flags included, so it must never see it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kacas.errors import WrongKindError
from kacas.model.npy_header import MAX_NDIM, decode_dtype

# SystemError is what Python says of a NumPy text with code points over 0x10FFFF.
_ERRORS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError, SystemError)
_MAX_BYTES = 2**63 - 1
_MAX_FIELDS = 65_536  # of a dtype, those of its fields included
_MAX_DTYPE_DEPTH = 64

# Flags that NumPy pickles with a dtype: aligned struct, needs the Python API, needs zeros. The others say
# that elements are Python objects or pointers.
_HARMLESS_DTYPE_FLAGS = 0x80 | 0x10 | 0x08


class Allowance:
    """How many bytes and items the functions may still copy: a few times what the pickle holds.

    A buffer is in the pickle once but can be named, and copied, any number of times.
    """

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = 8 * size + 4096

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise WrongKindError("not a pickle that can be loaded: it copies its parts over and over")


class Function:
    """What a pickle gets for a global name. It can be called, and nothing else."""

    __slots__ = ("_allowance", "_make", "name")

    def __init__(self, name: str, make: Callable[..., Any], allowance: Allowance) -> None:
        self.name = name
        self._make = make
        self._allowance = allowance

    def __call__(self, *arguments: Any) -> Any:
        self._allowance.take(sum(len(a) for a in arguments if isinstance(a, str | bytes | bytearray | list | tuple)))
        try:
            return self._make(*arguments)
        except WrongKindError:
            raise
        except _ERRORS as exc:
            raise WrongKindError(f"the pickle calls {self.name} with what it does not take: {exc}") from exc

    def __setstate__(self, state: object) -> None:
        raise WrongKindError(f"the pickle sets the state of {self.name}, which has none")


class Unfinished:
    """What stands for an array or dtype while the pickle is read. A pickle can only set its state."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def finish(self) -> Any:
        """The array or dtype itself."""
        raise NotImplementedError


class _Array(Unfinished):
    """An array, or what `_reconstruct` makes: one without content, until its state is set once."""

    __slots__ = ("_allowance", "_array")

    def __init__(self, array: NDArray[Any] | None, allowance: Allowance) -> None:
        self._array = array
        self._allowance = allowance

    def __setstate__(self, state: Any) -> None:
        if self._array is not None:
            raise WrongKindError("the pickle sets the state of a numpy.ndarray that has its content")
        try:
            version, shape, dtype, fortran_order, data = state
            if type(data) is list:
                raise WrongKindError("the pickle holds a numpy.ndarray of Python objects")
            if type(data) is not bytes or version != 1 or fortran_order not in (False, True):
                raise TypeError("it is no state of an array")
            self._allowance.take(len(data))
            self._array = _array(data, _dtype_of(dtype), shape, "F" if fortran_order else "C")
        except WrongKindError:
            raise
        except _ERRORS as exc:
            raise WrongKindError(f"the pickle gives a numpy.ndarray a state it does not take: {exc}") from exc

    def finish(self) -> NDArray[Any]:
        if self._array is None:
            raise WrongKindError("the pickle holds a numpy.ndarray without content")
        return self._array


class _Dtype(Unfinished):
    """A dtype, complete from the start, but that its byte order, unit or fields come once as a state."""

    __slots__ = ("_allowance", "_has_state", "depth", "dtype", "fields")
    __hash__ = object.__hash__  # type: ignore[assignment]  # a dtype may be a key

    def __init__(self, name: str, allowance: Allowance) -> None:
        if name.lstrip("<>|=").startswith("O"):
            raise WrongKindError(f"the pickle holds numpy.dtype({name[:20]!r}), that is Python objects")
        self.dtype = decode_dtype(name)
        self.depth = self.fields = 1
        self._has_state = False
        self._allowance = allowance

    def __setstate__(self, state: object) -> None:
        if self._has_state:
            raise WrongKindError("the pickle sets the state of a numpy.dtype twice")
        self._has_state = True
        try:
            self._set_state(state)
        except WrongKindError:
            raise
        except _ERRORS as exc:
            raise WrongKindError(f"the pickle gives a numpy.dtype a state it does not take: {exc}") from exc

    def _set_state(self, state: Any) -> None:
        version, byte_order, subarray, names, fields, itemsize, _, flags, *more = state
        if version not in (3, 4) or byte_order not in ("<", ">", "|", "=") or type(flags) is not int:
            raise TypeError("it is no state of a dtype")
        if not -128 <= flags < 256 or flags & 0xFF & ~_HARMLESS_DTYPE_FLAGS:  # NumPy 1 has a signed char
            raise WrongKindError(f"the pickle holds a numpy.dtype with flags {flags:#x}: elements that are no data")
        if subarray is not None:
            base, shape = subarray
            self._contain(base)
            self.dtype = np.dtype((_dtype_of(base), _shape(shape)))
        elif names is not None:
            self._set_fields(names, fields, itemsize)
        elif self.dtype.kind in "mM":
            # A unit of the time, and metadata that no array needs: (None, (b"us", 25, 1, 1)).
            unit, multiple, divisor, _ = more[0][1]
            unit = unit.decode("ascii") if type(unit) is bytes else unit
            if type(unit) is not str or type(multiple) is not int or divisor != 1:
                raise TypeError("it is no unit of time")
            suffix = "" if unit == "generic" else f"[{multiple}{unit}]"
            self.dtype = decode_dtype(f"{byte_order}{self.dtype.str[1:3]}{suffix}")
        else:
            self.dtype = self.dtype.newbyteorder(byte_order)
        if itemsize not in (-1, self.dtype.itemsize):
            raise ValueError(f"an itemsize of {itemsize} for {self.dtype}")

    def _set_fields(self, names: Any, fields: Any, itemsize: Any) -> None:
        self._allowance.take(8 * len(names))
        parts = [fields[name] for name in names]
        for name, (part, offset, *title) in zip(names, parts, strict=True):
            self._contain(part)
            if type(name) is not str or type(offset) is not int or not all(type(t) is str for t in title):
                raise TypeError("it is no field")
            if not 0 <= offset <= itemsize - _dtype_of(part).itemsize:
                raise ValueError(f"field {name!r} lies outside of the element")
        self.dtype = np.dtype(
            {  # titles may be None
                "names": list(names),
                "formats": [part[0].dtype for part in parts],
                "offsets": [part[1] for part in parts],
                "titles": [part[2] if len(part) > 2 else None for part in parts],
                "itemsize": operator.index(itemsize),
            }
        )

    def _contain(self, part: Any) -> None:
        # One dtype can be part of another any number of times: without a bound, 40 levels are 2**40 fields.
        self.fields += part.fields
        self.depth = max(self.depth, part.depth + 1)
        if self.fields > _MAX_FIELDS or self.depth > _MAX_DTYPE_DEPTH:
            raise WrongKindError("the pickle holds a numpy.dtype of too many fields")

    def finish(self) -> np.dtype[Any]:
        return self.dtype


def find_function(module: str, name: str, allowance: Allowance) -> Function:
    """What a pickle gets that names module.name. Raises WrongKindError, which names it, for all but a few."""
    found = _FUNCTIONS.get((_MODULES.get(module, module), name))
    if found is None:
        raise WrongKindError(
            f"the pickle needs {f'{module}.{name}'[:200]}; only plain data and NumPy arrays are loaded"
        )
    return Function(f"{module}.{name}", lambda *arguments: found(allowance, *arguments), allowance)


def _dtype_of(part: Any) -> np.dtype[Any]:
    if not isinstance(part, _Dtype):
        raise TypeError("it has no dtype")
    return part.dtype


def _shape(shape: Any) -> tuple[int, ...]:
    if type(shape) is not tuple or not all(type(length) is int and length >= 0 for length in shape):
        raise TypeError("a shape is a tuple of non-negative integers")
    if len(shape) > MAX_NDIM:
        raise ValueError(f"{len(shape)} dimensions")
    return shape


def _array(data: bytes | bytearray, dtype: np.dtype[Any], shape: Any, order: str) -> NDArray[Any]:
    """An array of exactly these bytes: what a pickle declares never takes memory, only what it holds."""
    if type(data) not in (bytes, bytearray) or order not in ("C", "F"):
        raise TypeError("no buffer, or no order")
    size = math.prod(_shape(shape)) * dtype.itemsize
    if dtype.hasobject or dtype.subdtype is not None or size != len(data):
        raise ValueError(f"{len(data):,} bytes for an array of {size:,}")
    if math.prod(length or 1 for length in shape) * max(dtype.itemsize, 1) > _MAX_BYTES:
        raise ValueError("too large a shape")
    # A bytearray is writable as it is; bytes are copied to be.
    return np.ndarray(shape, dtype, data if type(data) is bytearray else bytearray(data), order=order)  # type: ignore[arg-type]


def _make_ndarray(
    allowance: Allowance, shape: Any, descr: Any, data: Any, offset: Any, strides: Any, order: Any
) -> _Array:
    if type(offset) is not int or offset or strides is not None:
        raise ValueError("an offset or strides")
    dtype = decode_dtype(descr)
    allowance.take(len(repr(descr)))  # one descr can be named for many arrays, and take much memory for each
    return _Array(_array(data, dtype, shape, order), allowance)


def _make_frombuffer(allowance: Allowance, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
    if axes is None:
        return _Array(_array(data, _dtype_of(dtype), shape, order), allowance)
    if order != "K" or sorted(_shape(axes)) != list(range(len(shape))):
        raise ValueError("no order of axes")
    return _Array(_array(data, _dtype_of(dtype), shape, "C").transpose(axes), allowance)


def _make_reconstruct(allowance: Allowance, kind: Any, shape: Any, typecode: Any) -> _Array:
    # The shape and typecode are those of an empty array, whatever the array is.
    if not isinstance(kind, Function) or kind.name != "numpy.ndarray" or (shape, typecode) != ((0,), b"b"):
        raise ValueError("no plain array")
    return _Array(None, allowance)


def _make_scalar(allowance: Allowance, dtype: Any, data: Any) -> Any:
    dtype = _dtype_of(dtype)
    return _array(data, dtype, (), "C")[()]


def _make_dtype(allowance: Allowance, name: Any, align: Any = False, copy: Any = True) -> _Dtype:
    if type(name) is not str or type(align) not in (bool, int) or type(copy) not in (bool, int):
        raise TypeError("no name of a dtype")
    return _Dtype(name, allowance)


def _make_bytes(allowance: Allowance, text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise ValueError("only latin1")
    return text.encode("latin1")


def _maker(kind: type[Any], *signatures: tuple[type[Any], ...]) -> Callable[..., Any]:
    """A function that makes a `kind` of arguments of exactly these types."""

    def make(allowance: Allowance, *arguments: Any) -> Any:
        if tuple(map(type, arguments)) not in signatures:
            raise TypeError(f"not {signatures}")
        with np.errstate(all="ignore"):
            return kind(*arguments)

    return make


def _time_maker(kind: type[Any], code: str, *signatures: tuple[type[Any], ...]) -> Callable[..., Any]:
    make = _maker(kind, *signatures)

    def make_time(allowance: Allowance, *arguments: Any) -> Any:
        if len(arguments) == 2:
            decode_dtype(f"<{code}[{arguments[1]}]")  # NumPy takes a unit of "0s", and divides by it
        return make(allowance, *arguments)

    return make_time


_MODULES = {
    "__builtin__": "builtins",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
}

_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "set"): _maker(set, (list,)),
    ("builtins", "frozenset"): _maker(frozenset, (list,)),
    ("builtins", "bytes"): _maker(bytes, ()),  # b"" in protocols 0-2
    ("builtins", "bytearray"): _maker(bytearray, (), (bytes,)),
    ("builtins", "complex"): _maker(complex, (float, float)),
    ("_codecs", "encode"): _make_bytes,  # bytes in protocols 0-2
    ("numpy", "ndarray"): _make_ndarray,
    ("numpy", "dtype"): _make_dtype,
    ("numpy._core.multiarray", "_reconstruct"): _make_reconstruct,
    ("numpy._core.multiarray", "scalar"): _make_scalar,
    ("numpy._core.numeric", "_frombuffer"): _make_frombuffer,
    ("numpy", "datetime64"): _time_maker(np.datetime64, "M8", (str,), (int, str)),
    ("numpy", "timedelta64"): _time_maker(np.timedelta64, "m8", (str,), (int,), (int, str)),
    ("numpy", "str_"): _maker(np.str_, (str,)),
    ("numpy", "bytes_"): _maker(np.bytes_, (bytes,)),
    ("numpy", "bool_"): _maker(np.bool_, (bool,)),
    **{
        ("numpy", f"{sign}int{bits}"): _maker(np.dtype(f"{sign}int{bits}").type, (int,))
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    **{("numpy", f"float{bits}"): _maker(np.dtype(f"float{bits}").type, (float,)) for bits in (16, 32, 64)},
    **{("numpy", f"complex{bits}"): _maker(np.dtype(f"complex{bits}").type, (complex,)) for bits in (64, 128)},
}
