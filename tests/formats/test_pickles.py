"""Plain data and arrays come back from a pickle as they went in; everything else is refused by name."""

from __future__ import annotations

import base64
import collections
import datetime
import decimal
import enum
import math
import pickle
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kacas.errors import UnsupportedDataError, WrongKindError
from kacas.formats.pickles import dumps, loads
from kacas.model.npy_header import is_fortran

Array = np.ndarray[Any, Any]

array_dtypes = st.one_of(
    hnp.scalar_dtypes(),
    hnp.byte_string_dtypes(),
    hnp.unicode_string_dtypes(),
    st.sampled_from(["V3", "S0", ">U2", "g", "M8", "m8[25us]"]).map(np.dtype),
    st.sampled_from(
        [
            [("a", "i2"), ("b", ">f8", (2,))],
            [(("title", "a"), "S3"), ("b", [("c", "M8[ns]"), ("d", "S2")])],
            {"names": ["a"], "formats": ["f4"], "offsets": [1], "itemsize": 7},
        ]
    ).map(np.dtype),
)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    dtype = draw(array_dtypes)
    shape = draw(st.just(()) | hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    data = np.full(shape, "é", dtype).tobytes() if dtype.kind == "U" else None  # not all bytes are a text
    size = math.prod(shape) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size)) if data is None else data[:size]
    array: Array = np.ndarray(shape, dtype, bytearray(data), order=draw(st.sampled_from("CF")))
    if draw(st.booleans()):
        array.flags.writeable = False
    return array[::-1] if shape and draw(st.booleans()) else array


SCALARS = [
    *(np.dtype(name).type(3) for name in ["?", *"bhilqBHILQ", "e", "f", "d", "F", "D"]),
    *(np.float32(value) for value in (-0.0, 1e-45, np.inf, np.nan)),
    np.complex64(complex(-0.0, np.nan)), np.uint64(2**64 - 1), np.int64(-(2**63)), np.bool_(False),
    np.datetime64("2020-01-02"), np.datetime64(7, "25us"), np.datetime64("NaT", "s"), np.datetime64("NaT"),
    np.timedelta64(5), np.timedelta64(-7, "M"), np.timedelta64("NaT"), np.timedelta64("NaT", "ns"),
    np.str_("é\0"), np.str_(""), np.bytes_(b"a\0"), np.bytes_(b""),
]  # fmt: skip

LONG_LONG = (np.longlong, np.ulonglong) if np.longlong is not np.int64 else ()

# NumPy cannot hash times without a unit, and a NaT or NaN is never found again.
SCALAR_KEYS = [scalar for scalar in SCALARS if scalar.dtype.kind not in "mMfc"]

keys = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.binary(max_size=70), st.tuples(st.integers()))
atoms = st.one_of(
    keys,
    st.floats(),
    st.complex_numbers(),
    st.binary().map(bytearray),
    st.text(min_size=60, max_size=300),
    st.sampled_from(range(len(SCALARS))).map(SCALARS.__getitem__),
    arrays(),
    st.sets(keys),
    st.frozensets(keys | st.sampled_from(SCALAR_KEYS)),
)
values = st.recursive(
    atoms,
    lambda parts: st.one_of(
        st.lists(parts),
        st.lists(parts).map(tuple),
        st.dictionaries(keys | st.sampled_from(SCALAR_KEYS), parts),
    ),
    max_leaves=20,
)


def assert_same(one: Any, other: Any, *, exact_dtype: bool = True) -> None:
    """Equal in value, type, dtype and bits, all the way down."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray | np.generic):
        if exact_dtype:
            assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert content(one) == content(other)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for part, other_part in zip(one, other, strict=True):
            assert_same(part, other_part, exact_dtype=exact_dtype)
    elif isinstance(one, dict):
        assert_same(list(one), list(other))
        assert_same(list(one.values()), list(other.values()), exact_dtype=exact_dtype)
    elif isinstance(one, set | frozenset):
        assert sorted(map(repr, one)) == sorted(map(repr, other))
    else:
        assert repr(one) == repr(other)


def content(array: Any) -> Any:
    # NumPy leaves to chance what is in the padding of its copies.
    return repr(array["a"].tolist()) if "a" in (array.dtype.names or ()) else array.tobytes()


def contains(value: Any, kind: tuple[type, ...]) -> bool:
    if isinstance(value, dict):
        return any(contains(part, kind) for part in [*value, *value.values()])
    if isinstance(value, list | tuple | set | frozenset):
        return any(contains(part, kind) for part in value)
    return isinstance(value, kind)


@settings(max_examples=200, deadline=None)
@given(value=values)
def test_plain_data_comes_back_the_same(value: Any) -> None:
    assume(not contains(value, LONG_LONG))
    assert_same(loads(dumps(value)), value)


@pytest.mark.parametrize("scalar", SCALARS, ids=repr)
def test_a_numpy_scalar_comes_back_the_same(scalar: np.generic) -> None:
    expected = np.int64(scalar) if isinstance(scalar, LONG_LONG) else scalar  # one and the same on disk
    if isinstance(scalar, np.ulonglong):
        expected = np.uint64(scalar)
    for load in (loads, pickle.loads):
        result = load(dumps(scalar))
        assert_same(result, expected)
        assert result.dtype == scalar.dtype
        if isinstance(scalar, np.str_):
            assert str.__str__(result) == str.__str__(scalar)
        if isinstance(scalar, np.bytes_):
            assert list(result) == list(scalar)


@settings(deadline=None)
@given(value=values)
def test_plain_pickle_loads_what_is_stored(value: Any) -> None:
    assume(not contains(value, LONG_LONG))
    assert_same(pickle.loads(dumps(value)), value, exact_dtype=False)  # it makes fields of the padding


@settings(deadline=None)
@given(array=arrays())
def test_arrays_are_writable_and_keep_their_order(array: Array) -> None:
    for load in (loads, pickle.loads):
        result = load(dumps([array, array]))
        assert result[0].flags.writeable
        assert result[0] is result[1]
        assert is_fortran(result[0]) == is_fortran(array)


@settings(max_examples=200, deadline=None)
@given(value=values | arrays(), protocol=st.integers(0, 5))
def test_ordinary_pickles_of_plain_data_load(value: Any, protocol: int) -> None:
    # NumPy's own pickles lose zeros at the end of texts.
    assume(not contains(value, (*LONG_LONG, np.character)))
    result = loads(pickle.dumps(value, protocol))
    assert_same(result, value)
    if isinstance(result, np.ndarray):
        assert result.flags.writeable


@pytest.mark.parametrize("protocol", range(6))
def test_ordinary_pickles_of_dtypes_and_records_load(protocol: int) -> None:
    records = np.array([(1, b"x", 2.5)], dtype=[("a", "i4"), (("title", "b"), "S3"), ("c", ">f8")])
    dtypes = [np.dtype(name) for name in ("i4", ">f8", "M8[25us]", "m8", "U3", "S0", "V7")]
    dtypes += [
        records.dtype,
        np.dtype([("a", "i1"), ("b", "f8", (2, 3))], align=True),
        np.dtype(("i4", (2,))),
    ]
    overlapping = np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [2, 0], "itemsize": 9})
    value = [
        records,
        records[0],
        [*dtypes, overlapping],
        {np.dtype("i4"): {np.dtype("f4")}},
        np.longdouble(1.5),
    ]
    result = loads(pickle.dumps(value, protocol))
    assert result == value
    assert result[1].dtype == records.dtype
    assert result[2][-2].shape == (2,)
    assert result[0].dtype.fields["title"][1] == 4  # type: ignore[index]


def test_arrays_of_permuted_axes_load() -> None:
    array = np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0)
    for protocol in range(6):
        assert_same(loads(pickle.dumps(array, protocol)), array)


NUMPY_1_PICKLES = {
    0: """c-pO1O^f435M@G6^-
FY#>FO`FAY^k08+^zd5>|T&7)kaDgU8dcY_bFSar=|<50Y2i?Hwte4HL*<%RN$cy;rZRo~mtB)OHk^hU4WSKCOnw({A-
}Ih^<1>C`>Z=Cm6gkJI^d8O{_nRXL81+x$Els@96m(bBLP9=E$;qTNvz6dhG<Ptj9*=+65iQ>+mf=;zqrmlYPw*e+iqcXVMv+w)UI0!H
$7ud%SSRtjI1Fee**+SGoBhc(^b-><)6N?#$vfqL063WZ-U3V-wKUH<tBdm9>slom2tvTIHK)P6v%hDOvoUJKNgM&YdmUi-pZ6F#_E)0
o(P2-q2BY;}WhqcYoXp%>q<HCov6m)PE3|9tcRMdj=F{~;7Ln5>$yQk#>N7u6;_s;N3e6TZ|>)6gBd6XF_3n-
#MZt(qxj8Ck7Pij6PGWexQ=Qhj=ZEH=}!azfV2s+LutZhXe;(TBE~;W;^bmz%Kt18u8sAl()64v!0p6BH*XPEgzu<sDGm9K{QY=S5ZMY
J7q`)dk?UTfs3wMQ<;9d(qo_S=9^3UjXUnt>>ln>fCx`sR{*^nrbePzhf?S2B?kfu(FcsYERwN;<V~|ISX~jvrr2{P-
PYbGjJJ%784qSp3w=CJlJPCRr?Vkj#}7A5FrDaXBz{O<8G;HkE+64$VP;0cv02-teP}UvM@A_$P3yktK3+c*5HMI5Y95Vjhi{e-
D~>)(`$mh#*{QZi`qzgGzq_vDS?l&AU>bmPeE?++~brMlT#wNePIeJ=)?+ICf+~Dc9+pu`Lwg9a@ILrNY~`MFy4Id?|*zvDaZ|%&bc|U
;$+rr)7sJ0ZY9RktQdImtQZa{wE4GU;J~?<3tWWt6;UTdc<~y(`?(x#)77PGvYv}<`bU?tE^W%mgxSm+mCdzN-
^mNc%sZ8hN%3|ut>N>uvYB^HcdJ?dqKu|A1e-dg&#6*RM0v-7-muy9mp$C_xY^L~_z(}fkMant-
||Y)TfIt^*(8fKnZaKYQf!Hn`!Vcqk!#vX+rbYj*fYZt@!IMnIw=DSTtxRz=UsWfvp8cy5hAV_1-
qn>OXrZBkdqZMyl`se)eS#f9tPYnA4YOQ_SZMR%5PAH1*Sn&FL05TfC*M-*_bflg8j7m8_6~&9R""",
    2: """c-
nQ8eS6bn6vor8n<erx5XFH`7=l4$&^chhU<0PZMW&pwF_Br5G&9w%?cF|s7AXv&*$RTFD9W3F@W0=HKlX+E2JoDusn;l`SNr7ZbI$L+p
L0$!8?8XmCL@ZX7>HO|cP3x%wsHl#d&bR(v{5J+Wi?r_tz5P!3a%woM1v?bn+kT(qAOLztfZAo*;Y}tvwWkX)u)<hn{1P7#t`Xj0<U<8
6PC<DCA_NX5xu2~rFCFRl=Cug*<@74r+cuxHa~|Igmz7D@mUA3a&&Zb<e9wuA6*exW!9WlUqN0GC5qP^sj-
^yy1*NzpEiv(PSo*TzUfHm4#HZNj_Oel>zqJux({!$-
rI!EP_G~FH0iB3=cQhk5?%}c47_lo42CN<u$L~vMuB$&FGXyc!e;G%3SG2}j8RbWUTCTp8k^cecwd@wn(b^grJL5k!0Z4%V8LyKZV%fD
JDd<?CXirI58=b`bm!39gxkqD-i%-
uqjnSeJnSLtZJ@>z*vF`T!v4^c9+RKAzyVH=$sq7|fC+<ygB}hM4mSv62@EmeBf`f_U>mX>5jHR!8aRU^oc;-6#Dh-
w)b{@_;Aq&(QSRkugwMH`kt&W!e2Wa3NbCYJe~fTE;QOg1jQeXD6CO@fFsV7?bw}w0zTk|LgfBx!iwkqg)D;g?&V<vc$31-
I>g{@b<c8c8NctnV(x1P2CxSILh_Cq&2Ei1tf(Z~vH7aqm4>s#g6TZ>(SW|y1aI|_ohLC2|w}kKfT15mh9%clxT(P)}I58ZkBFBMw0z4
E5ML#_S@t>y4nx_e8UanbUO%8R7C^PFU;d{L!5IyIiB5*!9i;D|kH)gpT7YRSqyKyNTmmXYZxhlbHj7vNimpQ+1?A_oQW$*K>S0h{zxE
g5W@uOxXlct-Nk4ZL}RIS`hK4X_uTpJ$vH#qWe_{e#<PWY*Af8i-^Fz#o<FN+98TfWAAox)8$YE<zX;rB(`W?9(vSKF<6^-K7JNq-
V<S8<1MSKyw%VdH*Sfxox{4+syr0t&xd9yy)0CUQ~5-|~5WEbzp1yPpF%T(`j""",
    4: """c-
oCqT}vB56rDTS=nAFy(uY1Mz7+Bl8Y$vKX$m6*9L<Ab`&7#AW@Q5T>VBXL7W$HCU_im!2mg&f$$y}CW)fUu3Y~!+mO1yFbI;8D@&4Xbm
>s{drXfK6Zjkp!MLilOalN1SvTl$hL4o?s&m@k9gEUL>D8pOSRSQJDI_NmaElM^<0U=)E5!NKg${1BuS36lTicJacZsYXI?N&5=!FId7
|474rB+D?IiWM>gj3fPMI7Q{DRl}>+=B!-
u397f6pYE2~J}+Ur5?ijjhvv(beVwmPC&eFFQ(Uj4QP2w#GHV4sJqxJK*Yv_;?7oQ;LZ}a>AZ(N!T`X}V0803i#)5$KX!@4=7r84zkIT
@H1`0GC<(b9B8j>Y(!PxXt`PSHZL7?FrH561yC$FTD=q^euc$bWFKTsRepI|Q6rN4heTlUb_!Nqy+7H<}7HZy<td{W-
4AW2`q9@>7WVq!{#|Gnj?Y-<`i_+LCcPf@-
v5oyT(nF&AHUX0(L#Xl8(K;oe>U|B}=Jp3^4(t{YJbm^mEf7FZ5>7uln56)?8ey5CM0grf1y!=KLdMzxnc>YKP1wST4MqR~AyfJ&dH>S
cW=k+ItE>}7""",
}


@pytest.mark.parametrize("protocol", NUMPY_1_PICKLES)
def test_pickles_of_numpy_1_load(protocol: int) -> None:
    result = loads(zlib.decompress(base64.b85decode("".join(NUMPY_1_PICKLES[protocol].split()))))
    aligned = np.dtype([("x", "i1"), ("y", "f8")], align=True)
    expected = {
        "a": np.arange(3, dtype=">i2"), "f": np.asfortranarray([[1.0, 2.0]] * 2),
        "s": [np.float32(1.5), np.bool_(True), np.str_("q"), np.bytes_(b"w")],
        "r": np.array([(1, 2.5)], aligned), "t": np.datetime64("2020-01-02"), "d": np.dtype("M8[25us]"),
        "u": np.array(["ab"]), "p": (1 + 2j, b"\xff", {2}, bytearray(b"x")), "e": np.zeros((0, 2)),
    }  # fmt: skip
    assert result.pop("r").tolist() == expected.pop("r").tolist()  # type: ignore[attr-defined]
    assert_same(result, expected)


def test_the_bytes_do_not_depend_on_the_numpy_that_writes() -> None:
    stored = dumps([np.arange(2, dtype=">i2"), np.bool_(True)])
    assert stored == (
        b"\x80\x05\x95N\x00\x00\x00\x00\x00\x00\x00]\x94(\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94"
        b"(K\x02\x85\x94\x8c\x03>i2\x94\x96\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x94K\x00N\x8c\x01C\x94t\x94R\x94"
        b"h\x01\x8c\x05bool_\x94\x93\x94\x88\x85\x94R\x94e."
    )


def test_padding_is_stored_as_it_is_and_not_as_memory_happens_to_be() -> None:
    dtype = np.dtype({"names": ["a"], "formats": ["f4"], "offsets": [1], "itemsize": 7})
    array = np.frombuffer(bytes(range(70)), dtype)[::-3]
    assert loads(dumps(array)).tobytes() == array.view("V7").tobytes()


def test_shared_and_cyclic_containers_stay_so() -> None:
    inner: list[Any] = [np.arange(3)]
    outer = (inner, {"x": inner}, np.float32(1), {np.dtype("i4"): (np.dtype("i4"),)})
    inner.append(({"me": outer}, (inner, outer)))
    for protocol in range(2, 6):
        result = loads(pickle.dumps(outer, protocol))
        assert type(result[0][0]) is np.ndarray
        assert result[1]["x"] is result[0]
        assert result[0][1][0]["me"] is result
        assert result[0][1][1][0] is result[0]
        assert result[0][1][1][1] is result
        assert result[3] == outer[3]
    cyclic: list[Any] = [np.arange(3)]
    cyclic.append(({"me": cyclic}, cyclic))
    result = loads(dumps(cyclic))
    assert result[1][0]["me"] is result
    assert result[1][1] is result


class Colour(enum.Enum):
    RED = 1


class Child(dict[str, int]):
    pass


Point = collections.namedtuple("Point", "x y")

REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: Point(1, 2), r"^value is a .*Point;"),
    (lambda: {"fit": [1, collections.OrderedDict()]}, r"^value\['fit'\]\[1\] is a collections.OrderedDict;"),
    (lambda: [Child()], r"^value\[0\] is a .*Child;"),
    (lambda: {"a": {Colour.RED}}, r"^an item of value\['a'\] is a .*Colour;"),
    (lambda: {(1, Colour.RED): 2}, r"^a key of value\[1\] is a .*Colour;"),
    (lambda: datetime.date(2020, 1, 1), r"^value is a datetime.date;"),
    (lambda: decimal.Decimal(1), r"decimal.Decimal"),
    (lambda: len, r"builtin_function_or_method"),
    (lambda: lambda: 0, r"is a function;"),
    (lambda: [np.zeros(1), np.ndarray], r"^value\[1\] is a type;"),
    (lambda: [1j, complex], r"^value\[1\] is a type;"),
    (lambda: np.dtype("i4"), r"numpy.dtypes.Int32DType|numpy.dtype"),
    (lambda: range(3), r"^value is a range;"),
    (lambda: memoryview(b""), r"memoryview"),
    (lambda: pickle.PickleBuffer(b""), r"PickleBuffer"),
    (lambda: ..., r"ellipsis"),
    (lambda: collections.defaultdict(list), r"collections.defaultdict"),
    (lambda: np.zeros(2, object), r"^value is an array of which the array has dtype object"),
    (lambda: [np.zeros(2, [("a", "i4"), ("b", "O")])], r"^value\[0\] is an array of which field 'b' has"),
    (lambda: np.ma.zeros(2), r"numpy.ma.*MaskedArray; store numpy.asarray"),
    (lambda: np.zeros(2).view(np.recarray), r"recarray"),
    (lambda: np.longdouble(1), r"numpy.longdouble, which differs between machines"),
    (lambda: np.clongdouble(1), r"numpy.clongdouble"),
    (lambda: np.zeros(1, [("a", "i4")])[0], r"numpy.void"),
    (lambda: np.array([5]).view("M8")[0], r"numpy.datetime64 without a unit"),
    (lambda: np.array(["a"], np.dtypes.StringDType()), r"StringDType"),
]  # fmt: skip


@pytest.mark.parametrize("make, words", REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_not_plain_data_is_refused_by_name(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(UnsupportedDataError, match=words):
        dumps(make())


def test_deep_nesting_is_refused_and_not_a_recursion_error() -> None:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(UnsupportedDataError, match="nested too deeply"):
        dumps(value)
    with pytest.raises(UnsupportedDataError, match="is a type"):
        dumps([value, int])


def test_deep_nesting_loads() -> None:
    value = loads(b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".")
    depth = 0
    while value:
        value, depth = value[0], depth + 1
    assert depth == 99_999


@settings(deadline=None)
@given(value=values, size=st.integers(0, 10_000))
def test_a_pickle_that_is_cut_off_or_goes_on_is_refused(value: Any, size: int) -> None:
    stored = dumps(value)
    for wrong in (stored[: size % len(stored)], stored + b"\0", stored + stored):
        with pytest.raises(WrongKindError):
            loads(wrong)


@settings(max_examples=500, deadline=None)
@given(
    value=values,
    protocol=st.integers(0, 6),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_a_damaged_pickle_raises_nothing_but_wrong_kind(
    value: Any, protocol: int, edits: list[tuple[int, int]]
) -> None:
    data = bytearray(dumps(value) if protocol == 6 else pickle.dumps(value, protocol))
    for position, byte in edits:
        data[position % len(data)] = byte
    try:
        loads(bytes(data))
    except WrongKindError:
        pass


@settings(deadline=None)
@given(data=st.binary())
def test_garbage_raises_nothing_but_wrong_kind(data: bytes) -> None:
    for pickled in (data, memoryview(data), data + b".", b"\x80\x05" + data + b"."):
        try:
            loads(pickled)
        except WrongKindError:
            pass
