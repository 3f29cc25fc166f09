"""Pickles of plain data and NumPy arrays only. Everything else is refused by name, in both directions.

Written are pickles of protocol 5 that plain `pickle.load` reads, too, with NumPy 1 and 2. Their bytes do
not depend on the NumPy that writes: an array is `numpy.ndarray(shape, descr, bytes, 0, None, 'C' or 'F')`,
its descr as in a .npy header (plain pickle.load makes void fields of its padding), and a NumPy scalar is
its type called, `numpy.float32(1.5)`, with `numpy.bool_` by that name, as NumPy 1 has no `numpy.bool`.

Read are these, and what `pickle.dump` writes for the same kinds of values with NumPy 1 and 2, protocols 0-5.
A pickle is a program; `pickle_globals` has the few functions that it may call, none of them a real one.
"""

from __future__ import annotations

import io
import operator
import pickle
import reprlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kacas.errors import UnsupportedDataError, WrongKindError
from kacas.formats.pickle_globals import Allowance, Function, Unfinished, find_function
from kacas.formats.pickle_scan import check_opcodes
from kacas.model.npy_header import encode_dtype, is_fortran

__all__ = ["WrongKindError", "dumps", "loads"]

_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})
_SEQUENCES = (list, tuple)
_SETS = (set, frozenset)
_PLAIN_SCALARS = (np.number, np.bool_, np.character, np.datetime64)
_INEXACT = (np.longdouble, np.clongdouble)

# What reading a damaged or hostile pickle raises inside of the unpickler (a Warning if it is made an error).
_LOAD_ERRORS = (
    pickle.UnpicklingError, ValueError, TypeError, AttributeError, LookupError, EOFError, ArithmeticError,
    RecursionError, MemoryError, BufferError, SystemError, Warning,
)  # fmt: skip


def dumps(value: Any) -> bytes:
    """Pickle plain data: None, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set,
    frozenset, NumPy arrays and scalars, nested as they like.

    Raises UnsupportedDataError, which says where in the value it is, for everything else: subclasses of these
    types (namedtuple, OrderedDict, masked arrays, matrices), arrays of Python objects, long doubles on their
    own, records on their own; and for values nested too deeply for pickle.
    """
    for item in _leaves(value):
        reason = _why_refused(item)
        if reason:
            raise UnsupportedDataError(f"{_where(item, value)} {reason}")
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, 5).dump(value)
    except RecursionError as exc:
        raise UnsupportedDataError("the value is nested too deeply for a pickle; flatten it") from exc
    return buffer.getvalue()


def loads(data: bytes | memoryview) -> Any:
    """Load plain data from a pickle; nothing in it can run code. Arrays are writable.

    Raises WrongKindError, and nothing else, if this is not exactly one whole pickle of such data; the message
    names what it holds instead. Memory is a small multiple of the size of the data at most.
    """
    data = bytes(data)
    check_opcodes(data)
    unpickler = _Unpickler(data)
    try:
        value = unpickler.load()
        return _finished(value) if unpickler.called else value
    except WrongKindError:
        raise
    except _LOAD_ERRORS as exc:
        raise WrongKindError(f"not a pickle that can be loaded: {str(exc) or type(exc).__name__}") from exc


class _Pickler(pickle.Pickler):
    """Says NumPy's values in words that do not change with NumPy. Only for values that dumps looked over."""

    def reducer_override(self, item: Any) -> Any:
        kind = type(item)
        if kind is type:
            # Called for the functions below, too. A string is the name to write in place of the type's own.
            return "bool_" if item is np.bool_ else NotImplemented
        if kind is np.ndarray:
            return np.ndarray, _ndarray_arguments(item)
        if kind is complex:
            return kind, (item.real, item.imag)
        if not isinstance(item, np.generic):
            raise UnsupportedDataError(f"the value changed while it was stored: it holds a {kind.__qualname__}")
        # By its dtype: np.longlong is written as the np.int64 that it is.
        scalar_type = np.dtype(item.dtype.str).type
        if isinstance(item, np.datetime64 | np.timedelta64):
            return scalar_type, _time_arguments(item)
        # For these two, item() would drop the zeros at the end.
        if isinstance(item, np.str_):
            return scalar_type, (str.__str__(item),)
        if isinstance(item, np.bytes_):
            return scalar_type, (b"%b" % item,)
        return scalar_type, (item.item(),)


def _ndarray_arguments(array: NDArray[Any]) -> tuple[Any, ...]:
    order = "F" if is_fortran(array) else "C"
    # As opaque items: a copy of records has, for padding, whatever was in memory there.
    items = array.view(f"V{array.itemsize}") if array.dtype.kind == "V" and array.itemsize else array
    flat = np.ascontiguousarray(items.T if order == "F" else items).reshape(-1)
    if not flat.nbytes:
        data: Any = bytearray()
    elif flat.flags.writeable:
        # Written without a copy of its own, and read as a bytearray.
        data = pickle.PickleBuffer(flat.view(np.uint8).data)
    else:
        data = bytearray(flat.view(np.uint8).data)
    return array.shape, encode_dtype(array.dtype), data, 0, None, order


def _time_arguments(item: np.datetime64 | np.timedelta64) -> tuple[Any, ...]:
    unit, multiple = np.datetime_data(item.dtype)
    if unit == "generic" and np.isnat(item):
        return ("NaT",)
    count = int(item.astype(np.int64))
    return (count,) if unit == "generic" else (count, unit if multiple == 1 else f"{multiple}{unit}")


def _why_refused(item: Any) -> str:
    """Why this item, no container and no atom, is not stored; empty if it is."""
    kind = type(item)
    if kind is np.ndarray:
        try:
            encode_dtype(item.dtype)
        except UnsupportedDataError as exc:
            return f"is an array of which {exc}"
        return ""
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    if isinstance(item, np.ndarray):
        return f"is a {name}; store numpy.asarray(...) of it, and what it knows besides (a mask) as well"
    if kind.__module__ != "numpy" or not isinstance(item, _PLAIN_SCALARS):
        return f"is a {name}; store plain data and NumPy arrays"
    if isinstance(item, _INEXACT):
        return f"is a {name}, which differs between machines; store float(...) or an array of it"
    if isinstance(item, np.datetime64) and np.datetime_data(item.dtype)[0] == "generic" and not np.isnat(item):
        return f"is a {name} without a unit; give it one"
    return ""


def _leaves(value: Any) -> Iterator[Any]:
    """Everything in nested containers that is neither a container nor an atom, each object once."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        kind = type(item)
        if kind in _ATOMS or id(item) in seen:
            continue
        seen.add(id(item))
        if kind is dict:
            waiting += [key for key in item if type(key) not in _ATOMS]
            waiting += [part for part in item.values() if type(part) not in _ATOMS]
        elif kind in _SEQUENCES or kind in _SETS:
            waiting += [part for part in item if type(part) not in _ATOMS]
        else:
            yield item


def _where(leaf: Any, value: Any) -> str:
    """Where in the value the leaf is, as Python would write it: value['fit'][3]."""
    seen: set[int] = set()
    waiting = [(value, "value")]
    while waiting:
        item, words = waiting.pop()
        kind = type(item)
        if item is leaf:
            return words
        if id(item) in seen:
            continue
        seen.add(id(item))
        if kind is dict:
            waiting += [(part, f"{words}[{reprlib.repr(key)}]") for key, part in item.items()]
            waiting += [(key, f"a key of {words}") for key in item]
        elif kind in _SEQUENCES:
            waiting += [(part, f"{words}[{number}]") for number, part in enumerate(item)]
        elif kind in _SETS:
            waiting += [(part, f"an item of {words}") for part in item]
    return "a part of value"


class _Unpickler(pickle.Unpickler):
    """An unpickler that finds our own functions only. called: whether it found any."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._allowance = Allowance(len(data))
        self.called = False

    def find_class(self, module: str, name: str) -> Any:
        self.called = True
        return find_function(module, name, self._allowance)


def _finished(root: Any) -> Any:
    """The loaded value with each Unfinished replaced by its value. Shared and cyclic containers stay so.

    Raises WrongKindError for a function that the pickle leaves in the value.
    """
    finished: dict[int, Any] = {}  # by id, for all containers and all that is no atom
    mutable: list[Any] = []
    later: list[Any] = [root]
    waiting: list[tuple[Any, bool]] = []  # and whether its parts are finished
    while later or waiting:
        item, parts_are_finished = waiting.pop() if waiting else (later.pop(), False)
        kind = type(item)
        if parts_are_finished:
            parts = [finished.get(id(part), part) for part in item]
            finished[id(item)] = item if all(map(operator.is_, parts, item)) else kind(parts)
        elif kind in _ATOMS or id(item) in finished:
            continue
        elif kind is tuple or kind is frozenset:
            waiting.append((item, True))
            waiting += [(part, False) for part in item if type(part) not in _ATOMS]
        elif isinstance(item, Function):
            raise WrongKindError(f"the pickle holds {item.name} itself, which is no data")
        elif isinstance(item, Unfinished):
            finished[id(item)] = item.finish()
        else:
            finished[id(item)] = item
            if kind is dict or kind is list or kind is set:
                parts = [part for part in item if type(part) not in _ATOMS]
                if kind is dict:
                    parts += [part for part in item.values() if type(part) not in _ATOMS]
                if parts:
                    mutable.append(item)
                    # After the tuple that this container may be in: only through one of these can the
                    # tuple contain itself, and then its parts are replaced by the finished tuple.
                    later += parts
    for item in mutable:
        if type(item) is dict:
            pairs = [(finished.get(id(key), key), finished.get(id(part), part)) for key, part in item.items()]
            item.clear()
            item.update(pairs)
        elif type(item) is list:
            item[:] = [finished.get(id(part), part) for part in item]
        else:
            parts = [finished.get(id(part), part) for part in item]
            item.clear()
            item.update(parts)
    return finished.get(id(root), root)
