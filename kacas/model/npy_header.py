"""The header of a .npy file, frozen here because the identity of every stored array depends on it.

NumPy's own rule changed between versions (padding to 16 or 64 bytes, room for a growing axis), so the
rule of NumPy 2.x is written down once more instead of asked from the NumPy that happens to be installed.
Reading accepts what any NumPy since 1.0 wrote, within bounds that make a hostile header harmless.

Source: NEP 1 and the documentation of numpy.lib.format; the tests compare the bytes with `np.save`.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from kacas.errors import UnsupportedDataError

MAX_HEADER_SIZE = 64 * 1024  # bytes, magic included; NumPy itself stops at 10,000 unless told otherwise
MAX_NDIM = 64  # NumPy 2's own bound

_MAGIC = b"\x93NUMPY"
_ALIGNMENT = 64
_GROWTH_DIGITS = 21  # digits that the growing axis may come to need: len(str(8 * 2**64 - 1))
_LENGTH_SIZE = {1: 2, 2: 4, 3: 4}  # major version: bytes of the little-endian length field
_ENCODING = {1: "latin1", 2: "latin1", 3: "utf8"}
_MAX_BYTES = 2**63 - 1  # NumPy's npy_intp
_MAX_ITEM_SIZE = 2**31 - 1  # a C int, in which NumPy 1.x keeps it
_MAX_DESCR_PARTS = MAX_HEADER_SIZE

# A multiple of zero ("M8[0s]") would be a division by zero inside NumPy: it has to start with 1-9.
_SCALAR_DESCR = re.compile(r"[<>|=]?[?biufcSUVmM][0-9]{0,10}(\[([1-9][0-9]*)?[a-zA-Z]+\])?")


@dataclass(frozen=True)
class NpyHeader:
    """What a .npy header says. size: bytes before the data, the magic included."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    size: int

    @property
    def data_size(self) -> int:
        """Bytes of the array's data, an exact Python int."""
        return math.prod(self.shape) * self.dtype.itemsize


def is_fortran(array: np.ndarray[Any, Any]) -> bool:
    """Whether `np.save` writes the array in Fortran order: only if it is that and not C-contiguous too."""
    return array.flags.f_contiguous and not array.flags.c_contiguous


def encode_header(dtype: np.dtype[Any], shape: tuple[int, ...], fortran_order: bool) -> bytes:
    """The bytes that NumPy 2.x's `np.save` writes before the data of such an array.

    Raises UnsupportedDataError if the dtype holds Python objects, if .npy has no words for it, or if the
    header would exceed MAX_HEADER_SIZE: what is stored must be loadable. That bound is also why version
    2.0, which NumPy uses for latin-1 headers over 65,535 bytes, is read but never written.
    """
    descr = encode_dtype(dtype)
    shape = tuple(operator.index(length) for length in shape)
    text = f"{{'descr': {descr!r}, 'fortran_order': {bool(fortran_order)!r}, 'shape': {shape!r}, }}"
    if shape:
        growing = shape[-1] if fortran_order else shape[0]
        text += " " * (_GROWTH_DIGITS - len(repr(growing)))
    try:
        version, body = 1, text.encode(_ENCODING[1])
    except UnicodeEncodeError:
        version, body = 3, text.encode(_ENCODING[3])
    unpadded = len(_MAGIC) + 2 + _LENGTH_SIZE[version] + len(body) + 1
    padding = _ALIGNMENT - unpadded % _ALIGNMENT  # never 0: NumPy adds a whole line to an aligned header
    if unpadded + padding > MAX_HEADER_SIZE:
        raise UnsupportedDataError(
            f"the .npy header of this dtype takes {unpadded + padding:,} bytes, at most {MAX_HEADER_SIZE:,} "
            "are supported; use fewer fields or shorter field names"
        )
    length = (len(body) + padding + 1).to_bytes(_LENGTH_SIZE[version], "little")
    return _MAGIC + bytes([version, 0]) + length + body + b" " * padding + b"\n"


def parse_header(data: bytes | memoryview) -> NpyHeader:
    """Read the header at the start of `data`, which may go on after it.

    MAX_HEADER_SIZE bytes of a file are always enough. Raises ValueError, and nothing else, if this is not a
    valid .npy header of an array without Python objects whose size fits in 63 bits.
    """
    start = bytes(data[: len(_MAGIC) + 2])
    if len(start) < len(_MAGIC) + 2 or not start.startswith(_MAGIC):
        raise ValueError("not a .npy file: it does not start with \\x93NUMPY and a version")
    version, minor = start[-2:]
    if version not in _LENGTH_SIZE or minor != 0:
        raise ValueError(f".npy format version {version}.{minor} is not known; 1.0, 2.0 and 3.0 are")
    body_start = len(start) + _LENGTH_SIZE[version]
    size = body_start + int.from_bytes(data[len(start) : body_start], "little")
    if size > MAX_HEADER_SIZE:
        raise ValueError(f"a .npy header of {size:,} bytes; at most {MAX_HEADER_SIZE:,} are read")
    if len(data) < size or size == body_start:
        raise ValueError(f"the .npy header is cut off: {len(data):,} of {size:,} bytes")
    fields = _parse_literal(bytes(data[body_start:size]).decode(_ENCODING[version]))
    dtype = decode_dtype(fields["descr"])
    shape, fortran_order = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("the shape in the .npy header is not a tuple of non-negative integers")
    if len(shape) > MAX_NDIM:
        raise ValueError(f"the .npy header has {len(shape)} dimensions; NumPy has at most {MAX_NDIM}")
    # Like NumPy, without the zero lengths: (2**62, 2**62, 0) takes no bytes and still cannot be an array.
    if math.prod(length or 1 for length in shape) * (dtype.itemsize or 1) > _MAX_BYTES:
        raise ValueError("the array in the .npy header takes more than 2**63 - 1 bytes")
    if type(fortran_order) is not bool:
        raise ValueError("fortran_order in the .npy header is not a bool")
    return NpyHeader(dtype, shape, fortran_order, size)


def encode_dtype(dtype: np.dtype[Any]) -> str | list[Any]:
    """Say a dtype as .npy does: '<f8', or a list of (name, descr) and (name, descr, shape) for its fields.

    Metadata of a dtype is left out, and so is `np.record`, as `np.save` does. Raises UnsupportedDataError
    for Python objects (the field is named), out-of-order or overlapping fields, subarray dtypes on their own
    (no array has one), and any dtype that would not come back equal (StringDType, bfloat16, ...).
    """
    if dtype.hasobject:
        path, field = _object_field(dtype)
        raise UnsupportedDataError(
            f"{path} has dtype {field}, whose elements lie elsewhere in memory as Python objects or texts of "
            "any length; convert it to a numeric or fixed-width dtype first"
        )
    descr = _describe(dtype)
    try:
        exact = dtype.subdtype is None and decode_dtype(descr) == dtype
    except ValueError:
        exact = False
    if not exact:
        raise UnsupportedDataError(f"the .npy format has no words for dtype {dtype}; convert the array first")
    return descr


def decode_dtype(descr: object) -> np.dtype[Any]:
    """The dtype that a .npy descr means, padding left out. Raises ValueError if it is none, or holds objects.

    Safe with any object: a shared or cyclic descr (which no literal, but a pickle can contain) is bounded.
    """
    _bound_descr(descr)
    try:
        return _decode_dtype(descr)
    except (TypeError, ValueError, OverflowError, RecursionError, SyntaxError) as exc:
        raise ValueError(f"not the descr of an array without Python objects: {exc}") from exc


def _describe(dtype: np.dtype[Any]) -> str | list[Any]:
    if dtype.names is None:
        return dtype.str
    result: list[Any] = []
    end = 0
    for name in dtype.names:
        field, start, *title = dtype.fields[name]  # type: ignore[index]  # not None: it has names
        if start < end:
            raise UnsupportedDataError(
                f"field {name!r} overlaps or precedes the field before it, which the .npy format cannot say; "
                "copy the array to a packed dtype (numpy.lib.recfunctions.repack_fields)"
            )
        if start > end:
            result.append(("", f"|V{start - end}"))
        label = (title[0], name) if title else name
        if field.subdtype is None:
            result.append((label, _describe(field)))
        else:
            result.append((label, _describe(field.subdtype[0]), field.subdtype[1]))
        end = start + field.itemsize
    if dtype.itemsize > end:
        result.append(("", f"|V{dtype.itemsize - end}"))
    return result


def _decode_dtype(descr: object) -> np.dtype[Any]:
    if isinstance(descr, str):
        if not _SCALAR_DESCR.fullmatch(descr):
            raise ValueError(f"{descr[:40]!r} is no dtype of .npy")
        return np.dtype(descr)
    if not isinstance(descr, list):
        raise TypeError(f"a {type(descr).__name__} describes no dtype")
    layout: dict[str, list[Any]] = {"names": [], "formats": [], "offsets": [], "titles": []}
    end = 0
    for part in descr:
        if not isinstance(part, tuple) or len(part) not in (2, 3):
            raise TypeError("a field is not (name, descr) or (name, descr, shape)")
        label, field = part[0], _decode_dtype(part[1])
        if len(part) == 3:
            # Checked here: NumPy would take a list or a dictionary in its place for another dtype.
            if not isinstance(part[2], tuple) or not all(type(length) is int for length in part[2]):
                raise TypeError("the shape of a field is not a tuple of integers")
            field = np.dtype((field, part[2]))
        title, name = label if isinstance(label, tuple) and len(label) == 2 else (None, label)
        if not isinstance(name, str) or not isinstance(title, str | None):
            raise TypeError("a field's name is not a text")
        if name or field.type is not np.void or field.names is not None:  # else it is padding
            for values, value in zip(layout.values(), (name, field, end, title), strict=True):
                values.append(value)
        end += field.itemsize
    if end > _MAX_ITEM_SIZE:
        raise ValueError(f"an element of {end:,} bytes")
    return np.dtype({**layout, "itemsize": end})  # type: ignore[call-overload,no-any-return]


def _bound_descr(descr: object) -> None:
    """Raise ValueError if the descr, written out, has more parts than any header can hold."""
    waiting = [descr]
    for _ in range(_MAX_DESCR_PARTS):
        if not waiting:
            return
        part = waiting.pop()
        if isinstance(part, list | tuple):
            waiting.extend(part)
    raise ValueError("the descr of the dtype has too many parts")


def _object_field(dtype: np.dtype[Any], path: str = "the array") -> tuple[str, np.dtype[Any]]:
    """Where in the dtype the first Python object is, in words, and its dtype."""
    if dtype.subdtype is not None:
        return _object_field(dtype.subdtype[0], path)
    for name in dtype.names or ():
        if dtype[name].hasobject:
            return _object_field(dtype[name], f"field {name!r}" if path == "the array" else f"{path}[{name!r}]")
    return path, dtype


def _parse_literal(text: str) -> dict[str, Any]:
    """The dictionary of a header; ValueError if it is not a literal with exactly the three keys."""
    try:
        fields = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, ArithmeticError, MemoryError, RecursionError) as exc:
        raise ValueError(f"the .npy header is not a Python literal ({type(exc).__name__})") from exc
    if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("the .npy header is not a dictionary of exactly descr, fortran_order and shape")
    return fields
