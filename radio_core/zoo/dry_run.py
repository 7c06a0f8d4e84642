"""A dry run of a pickle, which refuses whatever a checkpoint has no need for.

A pickle is a program. Its instructions are followed here on stand-ins: nothing is imported,
called or allocated. They are those that `torch.save` writes, and each is held to the kinds of
objects that it is meant for, since versions of torch differ in how far they check that.
"""

import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from radio_core.zoo.allowed import (
    ALLOWED,
    DTYPES,
    NAMESPACE,
    STORAGES,
    Made,
    MadeList,
    Name,
    NumpyType,
    Storage,
    call,
    called,
    fits_set,
    is_key,
    is_numpy_state,
    malformed,
)

MAX_INSTRUCTIONS = 2_000_000
MAX_CALLS = 50_000  # each takes torch a tenth of a millisecond or more


class DryRun:
    """Follows the instructions of one pickle.

    Args:
        records: record name ("data/0") -> bytes, of all that the file holds.
    """

    def __init__(self, records: Mapping[str, int]) -> None:
        self._records = records
        self._stack: list[Any] = []
        self._below_marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        push = self._push
        values = ("NONE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
        self._effects: dict[str, Callable[[Any], None]] = {
            "PROTO": self._check_protocol,
            "STOP": lambda _: None,
            **dict.fromkeys(values, push),
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
            "EMPTY_LIST": lambda _: push(MadeList()),
            "EMPTY_DICT": lambda _: push(Made.DICT),
            "EMPTY_TUPLE": lambda _: push(()),
            "TUPLE1": lambda _: push(tuple(self._pop(1))),
            "TUPLE2": lambda _: push(tuple(self._pop(2))),
            "TUPLE3": lambda _: push(tuple(self._pop(3))),
            "TUPLE": lambda _: push(tuple(self._pop_to_mark())),
            "MARK": self._mark,
            **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda key: push(self._memo[key])),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._remember),
            "GLOBAL": self._mention,
            "APPEND": lambda _: self._append(self._pop(1)),
            "APPENDS": lambda _: self._append(self._pop_to_mark()),
            "SETITEM": lambda _: self._set_items(self._pop(2)),
            "SETITEMS": lambda _: self._set_items(self._pop_to_mark()),
            "NEWOBJ": lambda _: self._new(*self._pop(2)),
            "REDUCE": lambda _: push(call(*self._pop(2))),
            "BUILD": lambda _: self._build(*self._pop(1)),
            "BINPERSID": lambda _: self._open_storage(*self._pop(1)),
        }

    def run(self, pickle: bytes) -> None:
        """Follow all instructions.

        Raises:
            ValueError: at the first that a checkpoint does not need; the text continues a sentence
                that begins with the file's name.
        """
        try:
            calls = 0
            for count, (name, argument) in enumerate(_instructions(pickle)):
                calls += name in ("NEWOBJ", "REDUCE", "BUILD")
                if count >= MAX_INSTRUCTIONS:
                    raise ValueError(f"takes over {MAX_INSTRUCTIONS} instructions to build")
                if calls > MAX_CALLS:
                    raise ValueError(f"takes over {MAX_CALLS} calls to build")
                if name not in self._effects:
                    raise ValueError(f"uses {name}, a pickle instruction that no checkpoint needs")
                self._effects[name](argument)
        except LookupError:  # too few values on the stack, or a number that nothing was put under
            raise malformed() from None

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise malformed()
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def _check_protocol(self, protocol: int) -> None:
        if protocol != 2:
            raise ValueError(f"is written in pickle protocol {protocol}, where torch.save uses 2")

    def _mark(self, _: Any) -> None:
        self._below_marks.append(self._stack)
        self._stack = []

    def _pop_to_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._below_marks.pop()
        return values

    def _remember(self, key: int) -> None:
        self._memo[key] = self._stack[-1]

    def _mention(self, module_and_name: str) -> None:
        name = module_and_name.replace(" ", ".")
        if name not in ALLOWED or module_and_name.count(" ") != 1:
            raise ValueError(f"mentions {name[:100]}, which no checkpoint needs")
        self._push(Name(name))

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not MadeList:
            raise malformed()
        _check_data(values)
        target.fits_set &= all(fits_set(value) for value in values)

    def _set_items(self, values: list[Any]) -> None:
        keys = values[::2]
        if self._stack[-1] is not Made.DICT or len(values) % 2:
            raise malformed()
        if not all(is_key(key) for key in keys):
            raise ValueError("has a dict with keys other than text and whole numbers below 2^60")
        _check_data(values)
        if "__setstate__" in keys:  # as an attribute, its value would be called by torch
            raise ValueError("has a dict with the key __setstate__")

    def _new(self, kind: Any, arguments: Any) -> None:
        if type(kind) is not Name or kind != NAMESPACE or arguments != ():
            raise ValueError(f"creates an object of {called(kind)}")
        self._push(Made.NAMESPACE)

    def _build(self, attributes: Any) -> None:
        target = self._stack[-1]
        if type(target) is NumpyType:
            fits = is_numpy_state(attributes)
        else:
            fits = target in (Made.NAMESPACE, Made.DICT) and attributes is Made.DICT
        if not fits:
            raise malformed()

    def _open_storage(self, reference: Any) -> None:
        if type(reference) is not tuple or len(reference) != 5 or reference[0] != "storage":
            raise malformed()
        _, kind, key, location, count = reference
        itemsize = STORAGES.get(kind) if type(kind) is Name else None
        if itemsize is None or [type(x) for x in (key, location, count)] != [str, str, int]:
            raise malformed()
        nbytes = self._records.get(f"data/{key}")
        if nbytes is None or nbytes != count * itemsize:
            raise ValueError(
                f"says that data/{key[:20]} has {count * itemsize} bytes, but "
                + ("there is no such record" if nbytes is None else f"it has {nbytes}")
            )
        self._push(Storage(itemsize, nbytes))


def _instructions(pickle: bytes) -> Iterator[tuple[str, Any]]:
    try:
        for instruction, argument, _ in pickletools.genops(pickle):
            yield instruction.name, argument
    except ValueError:  # of genops: an unknown instruction, or a missing end
        raise malformed() from None


def _check_data(values: list[Any]) -> None:
    """Classes and functions are for calling; kept as data they could be called later."""
    for value in values:
        if type(value) is Name and value not in DTYPES:
            raise ValueError(f"holds {value} as a value")
