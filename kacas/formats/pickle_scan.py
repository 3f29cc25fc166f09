"""A look at the opcodes of a pickle before Python's unpickler, written in C, may see them.

Python's unpickler trusts some numbers in a pickle. Six bytes (`r` and an index) make it take 64 GiB for its
memo; tuples nested 200,000 deep crash the process when they are hashed as a key; extension codes fetch
objects without asking `find_class`. A pickle that passes `check_opcodes` does none of this.
Source: the opcodes as pickletools documents them; both crashes were seen with Python 3.11.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kacas.errors import WrongKindError

MAX_TUPLE_DEPTH = 10_000  # hashing takes about 80 bytes of C stack per level, of 512 KiB to 8 MiB

# What is skipped at the speed of `re`. An atom gives the stack one thing that is no tuple: None, a number, an
# empty list, a short string; with its number in the memo.
_SHORT = b"|".join(b"\\x%02x.{%d}" % (size, size) for size in range(48))
_ATOM = rb"(?:(?:[N\x88\x89\]})\x8f]|K.|G.{8}|J.{4}|M..|[\x8cC](?:" + _SHORT + rb"))(?:\x94|q.)?+)"
_RUN = re.compile(
    # Atoms, and a tuple of nothing but atoms. No alternative is tried twice on long runs.
    rb"(?:A(?:A(?:A++[\x85\x86\x87]?+|[\x85\x86]?+)|\x85?+)"
    rb"|\(A*+t?+"
    # Other opcodes of fixed length.
    rb"|[012Rabdelosu\x81\x90\x91\x92\x93\x94]|[hq\x80].|j.{4}|\x95.{8})*+".replace(b"A", _ATOM),
    re.DOTALL,
)
_TUPLES = frozenset(b"t\x85\x86\x87")
_COUNTED = {  # opcode: bytes of the length in front of the argument
    **dict.fromkeys(b"U\x8cC\x8a", 1),
    **dict.fromkeys(b"TXB\x8b", 4),
    **dict.fromkeys(b"\x8d\x8e\x96", 8),
}
_LINES = {**dict.fromkeys(b"FILSVgp", 1), **dict.fromkeys(b"ci", 2)}  # opcode: lines of text after it
_FIXED = {
    **dict.fromkeys(b"Khq\x80", 1),
    ord("M"): 2,
    **dict.fromkeys(b"Jjr", 4),
    **dict.fromkeys(b"G\x95", 8),
}
_REFUSED = {
    **dict.fromkeys(b"PQ", "a persistent id"),
    **dict.fromkeys(b"\x82\x83\x84", "an extension code of copyreg"),
    **dict.fromkeys(b"\x97\x98", "a buffer outside of the pickle"),
}
_STOP, _PUT, _LONG_BINPUT = b".pr"

# What opcodes take from the stack and give to it, for those that always do the same.
_PUSHES = frozenset(b"NIJKMLFGSTUVXBC])}c\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x96")
_TAKES = {ord("a"): 1, ord("s"): 2, ord("b"): 1}
_TAKES_AND_GIVES = {ord("R"): 2, 0x81: 2, 0x92: 3, 0x93: 2}
_TAKES_TO_MARK = frozenset(b"eu1\x90")
_TAKES_TO_MARK_AND_GIVES = frozenset(b"ldoi\x91")


def check_opcodes(data: bytes) -> None:
    """Raise WrongKindError unless this is one whole pickle that takes memory by its own size only."""
    tuples = 0  # without those of atoms
    for code, _, argument in _operations(data, _RUN):
        if code in _TUPLES:
            tuples += 1
        elif code in (_PUT, _LONG_BINPUT):
            index = _index(code, argument)
            # A pickler numbers its objects one by one, so no number exceeds the count of bytes.
            if index > len(data):
                raise WrongKindError(f"not a pickle that can be loaded: it numbers an object {index:,}")
    if tuples > MAX_TUPLE_DEPTH and _tuple_depth(data) > MAX_TUPLE_DEPTH:
        raise WrongKindError("not a pickle that can be loaded: tuples are nested too deeply")


def _operations(data: bytes, skipped: re.Pattern[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Opcode, its position and its argument, of each operation that does not match `skipped`.

    The argument of strings is left out. Raises WrongKindError if the bytes are not exactly one pickle.
    """
    position, size = 0, len(data)
    while True:
        start = skipped.match(data, position).end()  # type: ignore[union-attr]  # matches nothing, too
        if start >= size:
            raise WrongKindError("not a whole pickle: it is cut off")
        code, argument = data[start], b""
        position = start + 1
        if code in _COUNTED:
            width = _COUNTED[code]
            position += width + int.from_bytes(data[position : position + width], "little")
        elif code in _LINES:
            for _ in range(_LINES[code]):
                position = data.find(b"\n", position) + 1 or size + 1
            argument = data[start + 1 : position - 1]
        elif code in _FIXED:
            position += _FIXED[code]
            argument = data[start + 1 : position]
        elif code in _REFUSED:
            raise WrongKindError(f"the pickle refers to {_REFUSED[code]}; only plain data is loaded")
        elif code == _STOP:
            if position != size:
                raise WrongKindError(f"not one pickle: {size - position:,} bytes follow its end")
            return
        elif code not in _ALL:
            raise WrongKindError(f"not a pickle: there is no opcode {data[start : start + 1]!r}")
        if position > size:
            raise WrongKindError("not a whole pickle: it is cut off")
        yield code, start, argument


_ALL = frozenset(b"(02\x94") | _TUPLES | _PUSHES | _TAKES_TO_MARK | _TAKES_TO_MARK_AND_GIVES
_ALL |= _TAKES.keys() | _TAKES_AND_GIVES.keys()


def _index(code: int, argument: bytes) -> int:
    """The number of an object in an opcode that numbers or fetches one."""
    if code in b"pg":
        try:
            return int(argument)
        except ValueError:
            raise WrongKindError(f"not a pickle: {argument[:20]!r} is no number") from None
    return int.from_bytes(argument, "little")


_NOTHING = re.compile(b"")


def _tuple_depth(data: bytes) -> int:
    """How deeply tuples are nested in tuples, found by running the pickle with depths instead of objects.

    0.4 µs per opcode, so only asked of pickles with very many tuples. Lists and the like count as 0: they
    cannot be hashed, which ends the recursion. A stack that runs empty is left for the unpickler to report.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    deepest = 0
    for code, _, argument in _operations(data, _NOTHING):
        if code in _PUSHES:
            stack.append(0)
        elif code in _TUPLES:
            count = code - 0x84 if code != ord("t") else len(stack) - (marks.pop() if marks else 0)
            depth = 1 + max(stack[len(stack) - count :], default=0)
            deepest = max(deepest, depth)
            del stack[len(stack) - count :]
            stack.append(depth)
        elif code in b"\x94qrp":
            if stack:
                memo[len(memo) if code == 0x94 else _index(code, argument)] = stack[-1]
        elif code in b"hjg":
            stack.append(memo.get(_index(code, argument), 0))
        elif code == ord("("):
            marks.append(len(stack))
        elif code in _TAKES:
            del stack[-_TAKES[code] :]
        elif code in _TAKES_AND_GIVES:
            stack[-_TAKES_AND_GIVES[code] :] = [0]
        elif code in _TAKES_TO_MARK or code in _TAKES_TO_MARK_AND_GIVES:
            del stack[marks.pop() if marks else 0 :]
            if code in _TAKES_TO_MARK_AND_GIVES:
                stack.append(0)
        elif code == ord("2") and stack:
            stack.append(stack[-1])
        elif code == ord("0"):
            if marks and marks[-1] == len(stack):
                marks.pop()
            elif stack:
                stack.pop()
    return deepest
