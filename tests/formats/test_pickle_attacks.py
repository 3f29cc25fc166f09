"""No pickle runs code, corrupts memory, or takes memory that it only declares: each attempt is refused by name."""

from __future__ import annotations

import builtins
import copyreg
import os
import pickle
import pickletools
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacas.errors import WrongKindError
from kacas.formats import pickle_globals
from kacas.formats.pickle_scan import MAX_TUPLE_DEPTH, _tuple_depth, check_opcodes
from kacas.formats.pickles import dumps, loads


class Call:
    """Pickles as a call of a function, whatever the function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> Any:
        return self.parts


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def glob(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


NAMES = [
    "os.system", "posix.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "builtins.getattr",
    "builtins.__import__", "__builtin__.apply", "builtins.object", "builtins.type", "builtins.tuple",
    "builtins.map", "builtins.open", "builtins.str", "functools.partial", "operator.attrgetter",
    "operator.itemgetter", "copyreg._reconstructor", "copyreg.__newobj__", "importlib.import_module",
    "types.FunctionType", "pickle.loads", "numpy.load", "numpy.frombuffer", "numpy.memmap", "numpy.record",
    "numpy.core.multiarray._reconstruct.__globals__", "numpy._core.numeric.os", "numpy.matrix", "numpy.void",
    "numpy.object_", "numpy.longdouble", "numpy.f2py.diagnose.run", "kacas.formats.pickle_globals.Function",
    "collections.OrderedDict", "_codecs.decode", "codecs.encode", "numpy.ma.MaskedArray", "datetime.date",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_global_that_is_not_plain_data_is_refused_by_its_name(name: str) -> None:
    for module, function in {tuple(name.split(".", 1)), tuple(name.rsplit(".", 1))}:
        call = b"(" + text("true") + b"tR."
        for pickled in (
            glob(module, function) + call,
            b"\x80\x04" + text(module) + text(function) + b"\x93" + call,
            b"(" + text("true") + f"i{module}\n{function}\n".encode() + b".",  # INST
            b"(" + glob(module, function) + text("true") + b"o.",  # OBJ
            b"\x80\x02" + glob(module, function) + b")\x81.",  # NEWOBJ
            b"\x80\x04" + glob(module, function) + b")}\x92.",  # NEWOBJ_EX
            glob(module, function) + b".",
        ):
            with pytest.raises(WrongKindError) as caught:
                loads(pickled)
            assert f"{module}.{function}" in str(caught.value)


def test_real_attacks_leave_no_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    attacks = [
        Call(os.system, f"touch {trace}"),
        Call(eval, f"open({str(trace)!r}, 'w')"),
        Call(subprocess.check_output, ["touch", str(trace)]),
        Call(open, str(trace), "w"),
        {"x": [1, Call(exec, f"open({str(trace)!r}, 'w')")]},
    ]
    for attack in attacks:
        for protocol in range(6):
            with pytest.raises(WrongKindError, match="the pickle needs"):
                loads(pickle.dumps(attack, protocol))
    assert not trace.exists()


NDARRAY, DTYPE, SET = glob("numpy", "ndarray"), glob("numpy", "dtype"), glob("builtins", "set")
RECONSTRUCT = glob("numpy.core.multiarray", "_reconstruct") + b"(" + NDARRAY + b"(K\x00tC\x01btR"
I4 = DTYPE + b"(" + text("i4") + b"\x89\x88tR"
V8 = DTYPE + b"(" + text("V8") + b"\x89\x88tR"
I4_STATE = b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
SCALAR = glob("numpy.core.multiarray", "scalar")


def array_call(shape: bytes, descr: bytes, data: bytes, rest: bytes = b"K\x00N" + text("C")) -> bytes:
    return b"\x80\x05" + NDARRAY + b"(" + shape + descr + data + rest + b"tR."


def buffer(data: bytes) -> bytes:
    return b"\x96" + struct.pack("<Q", len(data)) + data


EIGHT = b"M\xe8\x03\x85"  # (1000,)

BAD = {
    "state of a function": (SET + b"}" + text("name") + text("x") + b"sb.", "builtins.set"),
    "slots of a function": (SET + b"N}" + text("name") + text("x") + b"s\x86b.", "builtins.set"),
    "class of a function": (SET + b"N}" + text("__class__") + SET + b"s\x86b.", "builtins.set"),
    "a function as the value": (b"]" + SET + b"a.", "builtins.set itself"),
    "a function as a key": (b"}" + SET + b"K\x01s.", "builtins.set itself"),
    "a function in a tuple in a frozenset": (b"\x80\x04((" + NDARRAY + b"t\x91.", "numpy.ndarray itself"),
    "a new object of a function": (b"\x80\x02" + SET + b")\x81.", ""),
    "a call of an array": (array_call(b")", text("<i4"), buffer(b"1234"))[:-1] + b")R.", ""),
    "state of an array with content": (
        array_call(b")", text("<i4"), buffer(b"1234"))[:-1] + b"(K\x01" + EIGHT + I4 + b"\x89C\x00tb.",
        "numpy.ndarray",
    ),
    "attributes of an array": (
        array_call(b")", text("<i4"), buffer(b"1234"))[:-1] + b"N}" + text("shape") + EIGHT + b"s\x86b.",
        "numpy.ndarray",
    ),
    "items of an array": (array_call(b")", text("<i4"), buffer(b"1234"))[:-1] + b"K\x00K\x00s.", ""),
    "an array without a buffer": (array_call(EIGHT, text("<i4"), b"N"), "numpy.ndarray"),
    "a huge array": (array_call(b"\x8a\x08" + b"\xff" * 7 + b"\x0f\x85", text("|u1"), buffer(b"")), "numpy.ndarray"),
    "a huge array of nothing": (
        array_call(b"K\x00\x8a\x08" + b"\xff" * 7 + b"\x7f\x8a\x08" + b"\xff" * 7 + b"\x7f\x87", text("<i4"), buffer(b"")),
        "numpy.ndarray",
    ),
    "an array of 65 dimensions": (array_call(b"(" + b"K\x01" * 65 + b"t", text("|u1"), buffer(b"1")), "numpy.ndarray"),
    "an array of negative length": (array_call(b"J\xff\xff\xff\xffK\xff\x86", text("|u1"), buffer(b"")), "numpy.ndarray"),
    "an array shorter than its buffer": (array_call(b"K\x01\x85", text("<i4"), buffer(b"12345")), "numpy.ndarray"),
    "an array with strides": (array_call(b")", text("<i4"), buffer(b"1234"), b"K\x00)" + text("C")), "numpy.ndarray"),
    "an array with an offset": (array_call(b")", text("<i4"), buffer(b"1234"), b"K\x04N" + text("C")), "numpy.ndarray"),
    "an array of objects": (array_call(b")", text("|O"), buffer(bytes(8))), "numpy.ndarray"),
    "an array of a strange dtype": (array_call(b")", b"}" + text("names") + b"]s", buffer(b"1234")), "numpy.ndarray"),
    "a dtype of objects": (DTYPE + b"(" + text("O8") + b"\x89\x88tR.", "numpy.dtype"),
    "a dtype of many": (DTYPE + b"(" + text("i4,O") + b"\x89\x88tR.", "numpy.dtype"),
    "a dtype of a function": (DTYPE + b"(" + SET + b"\x89\x88tR.", "numpy.dtype"),
    "a dtype with flags of objects": (
        I4 + b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb.", "numpy.dtype with flags"
    ),
    "a dtype with a false size": (I4 + b"(K\x03" + text("<") + b"NNNM\xe8\x03K\x01K\x00tb.", "numpy.dtype"),
    "a dtype with two states": (I4 + I4_STATE + I4_STATE[1:] + b".", ""),
    "a dtype of a field outside": (
        V8 + b"(K\x03" + text("|") + b"N" + text("a") + b"\x85}" + text("a") + I4 + b"K\x06\x86sK\x08K\x01K\x00tb.",
        "numpy.dtype",
    ),
    "a dtype of a field of no dtype": (
        V8 + b"(K\x03" + text("|") + b"N" + text("a") + b"\x85}" + text("a") + b"NK\x00\x86sK\x08K\x01K\x00tb.",
        "numpy.dtype",
    ),
    "a dtype of huge fields": (
        V8 + b"(K\x03" + text("|") + b"N)}\x8a\x08" + b"\xff" * 7 + b"\x0fK\x01K\x00tb.", "numpy.dtype"
    ),
    "a huge subarray": (
        V8 + b"(K\x03" + text("|") + I4 + b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86\x86NNK\x08K\x01K\x00tb.", "numpy.dtype"
    ),
    "a garbage state": (I4 + b"K\x01b.", "numpy.dtype"),
    "content of objects": (RECONSTRUCT + b"(K\x01" + EIGHT + I4 + b"\x89](K\x01etb.", "Python objects"),
    "content of a false size": (RECONSTRUCT + b"(K\x01" + EIGHT + I4 + b"\x89C\x041234tb.", "numpy.ndarray"),
    "content of no dtype": (RECONSTRUCT + b"(K\x01" + EIGHT + b"N\x89C\x041234tb.", "numpy.ndarray"),
    "no content": (RECONSTRUCT + b".", "without content"),
    "an array of another class": (RECONSTRUCT.replace(NDARRAY, SET) + b".", "_reconstruct"),
    "a scalar of a false size": (SCALAR + b"(" + I4 + b"C\x03123tR.", "scalar"),
    "a scalar without content": (SCALAR + b"(" + I4 + b"tR.", "scalar"),
    "a scalar of no text": (SCALAR + b"(" + DTYPE + b"(" + text("U1") + b"tRC\x04\xff\xff\xff\xfftR.", "scalar"),
    "a number out of range": (glob("numpy", "int8") + b"M\xff\xff\x85R.", "numpy.int8"),
    "a scalar of a wrong type": (glob("numpy", "float64") + text("x") + b"\x85R.", "numpy.float64"),
    "a time of a wrong unit": (glob("numpy", "datetime64") + b"(K\x01" + text("0s") + b"tR.", "numpy.datetime64"),
    "a bytearray by its size": (glob("builtins", "bytearray") + b"\x8a\x06" + bytes(5) + b"\x7f\x85R.", "bytearray"),
    "bytes by their size": (glob("builtins", "bytes") + b"\x8a\x06" + bytes(5) + b"\x7f\x85R.", "bytes"),
    "a bytearray longer than the pickle": (b"\x96" + struct.pack("<Q", 2**40) + b"12.", "cut off"),
    "a string longer than the pickle": (b"\x8d" + struct.pack("<Q", 2**63 - 1) + b"12.", "cut off"),
    "a negative length": (b"T\xff\xff\xff\xff.", "cut off"),
    "a frame longer than the pickle": (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.", ""),
    "another codec": (glob("_codecs", "encode") + b"(" + text("a") + text("rot13") + b"tR.", "_codecs.encode"),
    "a persistent id": (b"Pabc\n.", "a persistent id"),
    "a persistent object": (b"NQ.", "a persistent id"),
    "an extension code": (b"\x82\x01.", "an extension code"),
    "a long extension code": (b"\x84\x01\x00\x00\x00.", "an extension code"),
    "a buffer from elsewhere": (b"\x80\x05\x97.", "a buffer outside"),
    "a huge memo": (b"Nr\xff\xff\xff\x7f.", "numbers an object"),
    "a huge memo in words": (b"Np99999999999\n.", "numbers an object"),
    "a memo of no number": (b"Npx\n.", "is no number"),
    "a memo that is not there": (b"h\x07.", ""),
    "an empty stack": (b"R.", ""),
    "no mark": (b"NNt.", ""),
    "an unhashable key": (b"}]Ns.", ""),
    "an array as a key": (b"}" + RECONSTRUCT + b"Ns.", ""),
    "nothing": (b"", "cut off"),
    "no end": (b"N", "cut off"),
    "more after the end": (b"N.N.", "2 bytes follow"),
    "an unknown opcode": (b"\xff.", "no opcode"),
    "a protocol of the future": (b"\x80\x63N.", ""),
    "a broken escape": (b"S'\\d'\n.", ""),
    "a broken text": (b"X\x01\x00\x00\x00\xff.", ""),
    "a very long number": (b"I" + b"9" * 5000 + b"\n.", ""),
}  # fmt: skip


@pytest.mark.parametrize("pickled, words", BAD.values(), ids=BAD)
def test_what_a_pickle_must_not_do_is_refused(pickled: bytes, words: str) -> None:
    with pytest.raises(WrongKindError) as caught:
        loads(pickled)
    assert words in str(caught.value)


def test_the_parts_of_these_attacks_load_when_they_are_put_together_right() -> None:
    assert loads(array_call(b"K\x02\x85", text("<i2"), buffer(b"\1\0\2\0"))).tolist() == [1, 2]
    state = b"(K\x01K\x01\x85" + I4 + I4_STATE + b"\x89C\x04\7\0\0\0tb."
    assert loads(RECONSTRUCT + state).tolist() == [7]
    assert loads(SCALAR + b"(" + I4 + b"C\x04\7\0\0\0tR.") == np.int32(7)
    assert loads(SET + b"](K\x01K\x02e\x85R.") == {1, 2}
    record = b"(K\x03" + text("|") + b"N" + text("a") + b"\x85}" + text("a") + I4 + b"K\x04\x86sK\x08K\x01K\x00tb."
    assert loads(V8 + record).fields["a"] == (np.dtype("i4"), 4)


def test_an_extension_code_that_a_program_registered_is_refused() -> None:
    copyreg.add_extension("os", "system", 0x7F)
    try:
        with pytest.raises(WrongKindError, match="an extension code"):
            loads(b"\x80\x02\x82\x7f" + b"(" + text("true") + b"tR.")
    finally:
        copyreg.remove_extension("os", "system", 0x7F)


def test_state_of_a_numpy_scalar_changes_nothing() -> None:
    pickled = SCALAR + b"(" + I4 + I4_STATE + b"C\x04\7\0\0\0tR(K\x01" + EIGHT + I4 + b"\x89C\x00tb."
    assert loads(pickled) == 7


def test_modules_are_not_changed() -> None:
    before = dict(vars(pickle_globals)), dict(vars(builtins))
    for pickled, _ in BAD.values():
        with pytest.raises(WrongKindError):
            loads(pickled)
    assert (dict(vars(pickle_globals)), dict(vars(builtins))) == before


def test_parts_are_not_copied_without_end() -> None:
    megabyte = b"B" + struct.pack("<I", 1 << 20) + bytes(1 << 20)
    copies = b"h\x01h\x00\x85R" * 10_000
    pickled = b"\x80\x04" + megabyte + b"q\x000" + glob("builtins", "bytearray") + b"q\x010(" + copies + b"l."
    with pytest.raises(WrongKindError, match="copies its parts over and over"):
        loads(pickled)


def test_a_dtype_is_not_doubled_without_end() -> None:
    inner = I4
    for _ in range(40):
        fields = b"}(" + text("a") + b"h\x00J\0\0\0\0\x86" + text("b") + b"h\x00J\0\0\0\0\x86u"
        state = b"(K\x03" + text("|") + b"N" + text("a") + text("b") + b"\x86" + fields + b"K\x08K\x01K\x00tb"
        inner = inner + b"q\x000" + V8 + state
    with pytest.raises(WrongKindError, match="of too many fields"):
        loads(b"\x80\x02" + inner + b".")


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from kacas.errors import WrongKindError
from kacas.formats.pickles import loads
try:
    loads(sys.stdin.buffer.read())
except WrongKindError as exc:
    print(exc)
"""


def loaded_apart(pickled: bytes) -> str:
    """What loading says in a process of its own, which it might kill."""
    done = subprocess.run([sys.executable, "-c", LIMITED], input=pickled, capture_output=True, check=True)
    return done.stdout.decode().strip()


def test_deeply_nested_keys_do_not_crash_the_process() -> None:
    nested = b"\x80\x04})" + b"\x85" * 1_000_000 + b"Ns."
    assert "nested too deeply" in loaded_apart(nested)
    memoized = b"\x80\x04})q\x00" + b"0h\x00N\x86q\x00" * 300_000 + b"Ns."
    assert "nested too deeply" in loaded_apart(memoized)


def test_a_huge_memo_takes_no_memory() -> None:
    assert "numbers an object" in loaded_apart(b"Nr\xff\xff\xff\x0f.")


@settings(max_examples=300, deadline=None)
@given(
    value=st.recursive(
        st.none() | st.integers() | st.floats() | st.text(max_size=60) | st.binary(max_size=60),
        lambda parts: st.lists(parts).map(tuple) | st.lists(parts) | st.dictionaries(st.text(), parts),
    ),
    protocol=st.integers(3, 5),  # before, bytes are calls, with a tuple of arguments
)
def test_the_depth_of_tuples_is_found(value: Any, protocol: int) -> None:
    def depth(part: Any) -> int:
        return 1 + max(map(depth, part), default=0) if isinstance(part, tuple) else 0

    def deepest(part: Any) -> int:
        parts = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
        return max([depth(part), *map(deepest, parts)])

    pickled = pickle.dumps(value, protocol)
    check_opcodes(pickled)
    # The empty tuple is no opcode that nests.
    assert deepest(value) - 1 <= _tuple_depth(pickled) <= deepest(value)


def test_many_flat_tuples_are_no_reason_to_look_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(data: bytes) -> int:
        raise AssertionError

    monkeypatch.setattr("kacas.formats.pickle_scan._tuple_depth", refuse)
    value = [(number, number / 2, str(number)) for number in range(3 * MAX_TUPLE_DEPTH)]
    assert loads(dumps(value)) == value
    assert loads(dumps(dict.fromkeys(zip(range(30_000), range(30_000), strict=True))))


def test_many_nested_tuples_load() -> None:
    value = [((number,), (number,)) for number in range(MAX_TUPLE_DEPTH)]
    assert loads(dumps(value)) == value


@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda opcode: opcode.name)
def test_every_opcode_is_known_to_the_scan(opcode: pickletools.OpcodeInfo) -> None:
    try:
        check_opcodes(opcode.code.encode("latin1") + b"0\n0\n" + bytes(20) + b".")
    except WrongKindError as exc:
        assert f"there is no opcode {opcode.code.encode('latin1')!r}" not in str(exc)
