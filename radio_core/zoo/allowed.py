"""What a pickled checkpoint may mention, and how it may call that.

The released checkpoints carry the arguments of a training script. Besides tensors, they may have
what such arguments are: plain values, and a few classes whose objects can be told as plain values.
Each name is here with the reason for it, and each call is held to what the class itself writes.
"""

import math
import re
import struct
from collections.abc import Callable, Container
from enum import Enum, auto
from typing import Any, NamedTuple

MAX_DIMENSIONS = 32
MAX_PATH_PARTS = 256
MAX_PATH_CHARACTERS = 4096
MAX_KEY = 1 << 60  # larger numbers can be made to share their hash, and then each look-up is slow

NAMESPACE = "argparse.Namespace"  # `args` itself, as argparse makes it
ORDERED_DICT = "collections.OrderedDict"  # a module's state; also the (empty) hooks of a tensor
DEFAULT_DICT = "collections.defaultdict"  # grouped options; its factory is never called
FACTORIES = frozenset(f"__builtin__.{kind}" for kind in ("list", "dict", "set", "int", "float"))
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"  # averaged weights are often kept as parameters
PARAMETER_CLASS = "torch.nn.parameter.Parameter"  # the same, if the class is called
DEVICE = "torch.device"  # where the training ran
SIZE = "torch.Size"  # a shape that came from a tensor
SETS = frozenset({"__builtin__.set", "__builtin__.frozenset"})  # names of layers, of teachers
POSIX_PATHS, WINDOWS_PATHS = (  # folders of data and results; Python 3.13 says pathlib._local
    frozenset(f"{module}.{kind}" for module in ("pathlib", "pathlib._local") for kind in kinds)
    for kinds in (("PosixPath", "PurePosixPath"), ("WindowsPath", "PureWindowsPath"))
)
NUMPY_SCALARS = frozenset(  # a number that came from numpy, version 1 or 2
    {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"}
)
NUMPY_TYPE = "numpy.dtype"  # its type
ENCODE = "_codecs.encode"  # its bytes, which this pickle protocol can only write as text
NUMPY_FORMATS = {
    **{"b1": "<?", "i1": "<b", "i2": "<h", "i4": "<i", "i8": "<q"},
    **{"u1": "<B", "u2": "<H", "u4": "<I", "u8": "<Q", "f2": "<e", "f4": "<f", "f8": "<d"},
}
"""numpy's code of a type of numbers -> its format for `struct`."""
STORAGES = {
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.FloatStorage": 4,
    "torch.DoubleStorage": 8,
    "torch.BoolStorage": 1,
    "torch.ByteStorage": 1,
    "torch.CharStorage": 1,
    "torch.ShortStorage": 2,
    "torch.IntStorage": 4,
    "torch.LongStorage": 8,
}
"""Storage class -> bytes of one element."""
DTYPES = frozenset(
    {"torch.float16", "torch.bfloat16", "torch.float32", "torch.float64", "torch.bool"}
    | {"torch.uint8", "torch.int8", "torch.int16", "torch.int32", "torch.int64"}
)
ALLOWED = (
    (DTYPES | STORAGES.keys() | {TENSOR, PARAMETER, PARAMETER_CLASS, DEVICE, SIZE})
    | ({NAMESPACE, ORDERED_DICT, DEFAULT_DICT} | FACTORIES | SETS)
    | (POSIX_PATHS | WINDOWS_PATHS | NUMPY_SCALARS | {NUMPY_TYPE, ENCODE})
)
"""All that a checkpoint may mention by name."""


class Name(str):
    """Stands for the class or function of this name."""

    __slots__ = ()


class Made(Enum):
    """Stands for an object that the pickle builds."""

    DICT = auto()
    NAMESPACE = auto()
    TENSOR = auto()
    PARAMETER = auto()
    PLAIN = auto()  # a set, device, size, path or number: complete, and never to be changed


class MadeList:
    """Stands for a list.

    Attributes:
        fits_set: whether a set may be made of it. Its values must be quick to hash; and only one
            set may be made of it, since many sets of a long list are small in the file.
    """

    def __init__(self) -> None:
        self.fits_set = True


class Storage(NamedTuple):
    """Stands for the memory behind tensors."""

    itemsize: int
    nbytes: int


class NumpyType(NamedTuple):
    """Stands for the type of a numpy scalar."""

    itemsize: int


class _Bytes(NamedTuple):
    """Stands for the bytes of a numpy scalar."""

    nbytes: int


def call(function: object, arguments: object) -> object:
    """The stand-in for what a call makes.

    Args:
        function, arguments: stand-ins, or the values themselves where they are plain.

    Raises:
        ValueError: nothing that may be called, or not with these arguments.
    """
    made = None
    if type(function) is Name and type(arguments) is tuple and function in _CALLS:
        counts, make = _CALLS[function]
        made = make(*arguments) if len(arguments) in counts else None
    if made is None:
        raise ValueError(f"calls {called(function)} in a way that no checkpoint needs")
    return made


def called(value: object) -> str:
    """What errors call something that is used as a class or function."""
    return str(value) if type(value) is Name else "something that is no known class or function"


def is_key(value: object) -> bool:
    """Whether it may be a key: hashing a nested tuple, say, can take for ever, or crash."""
    return type(value) is str or (type(value) is int and -MAX_KEY < value < MAX_KEY)


def fits_set(value: object) -> bool:
    """Whether a set may contain it."""
    return value is None or type(value) in (bool, float) or is_key(value)


def is_numpy_state(state: object) -> bool:
    """Whether it is what numpy adds to the type of a number, little-endian or of one byte."""
    return type(state) is tuple and state in _NUMPY_STATES


def malformed() -> ValueError:
    """For what `torch.save` does not write at all."""
    return ValueError("has a malformed pickle, so it is damaged or was tampered with")


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any
) -> Made:
    """Every element must lie in the storage, and on its own."""
    if (
        type(storage) is not Storage
        or not _is_shape(size)
        or not _is_shape(stride)
        or len(size) != len(stride)
        or not _is_shape((offset,))
        or type(requires_grad) is not bool
        or hooks is not Made.DICT
    ):
        raise malformed()
    elements = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if elements and max(elements, last + 1) * storage.itemsize > storage.nbytes:
        raise ValueError(
            f"has a tensor of shape {size}, strides {stride} and offset {offset}, for which it "
            f"stores only {storage.nbytes} bytes"
        )
    return Made.TENSOR


def _is_shape(value: Any) -> bool:
    return (
        type(value) is tuple
        and len(value) <= MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n < 1 << 62 for n in value)
    )


def _parameter(data: Any, requires_grad: Any, hooks: Any = Made.DICT) -> Made | None:
    fits = data is Made.TENSOR and type(requires_grad) is bool and hooks is Made.DICT
    return Made.PARAMETER if fits else None


def _device(kind: Any, index: Any = 0) -> Made | None:
    named = type(kind) is str and re.fullmatch("[a-z0-9]{1,32}", kind)
    return Made.PLAIN if named and type(index) is int and 0 <= index < 128 else None


def _size(shape: Any) -> Made | None:
    return Made.PLAIN if _is_shape(shape) else None


def _set(values: Any) -> Made | None:
    if type(values) is not MadeList or not values.fits_set:
        return None
    values.fits_set = False
    return Made.PLAIN


def _default_dict(factory: Any = None) -> Made | None:
    fits = factory is None or (type(factory) is Name and factory in FACTORIES)
    return Made.DICT if fits else None


def _path(*parts: Any) -> Made | None:
    fits = all(type(part) is str for part in parts) and sum(map(len, parts)) <= MAX_PATH_CHARACTERS
    return Made.PLAIN if fits else None


def _numpy_type(code: Any, align: Any, copy: Any) -> NumpyType | None:
    if type(code) is not str or code not in NUMPY_FORMATS or (align, copy) != (False, True):
        return None
    return NumpyType(struct.calcsize(NUMPY_FORMATS[code]))


def _encode(text: Any, encoding: Any) -> _Bytes | None:
    fits = type(text) is str and len(text) <= 8 and all(c <= "\xff" for c in text)
    return _Bytes(len(text)) if fits and encoding == "latin1" else None


def _numpy_scalar(kind: Any, raw: Any) -> Made | None:
    fits = type(kind) is NumpyType and type(raw) is _Bytes and kind.itemsize == raw.nbytes
    return Made.PLAIN if fits else None


_NUMPY_STATES = [(3, order, None, None, None, -1, -1, 0) for order in "<|"]

_CALLS: dict[str, tuple[Container[int], Callable[..., object]]] = {
    ORDERED_DICT: ((0,), lambda: Made.DICT),
    DEFAULT_DICT: ((0, 1), _default_dict),
    TENSOR: ((6,), _tensor),
    PARAMETER: ((3,), _parameter),
    PARAMETER_CLASS: ((2,), _parameter),
    DEVICE: ((1, 2), _device),
    SIZE: ((1,), _size),
    **dict.fromkeys(SETS, ((1,), _set)),
    **dict.fromkeys(POSIX_PATHS | WINDOWS_PATHS, (range(MAX_PATH_PARTS + 1), _path)),
    NUMPY_TYPE: ((3,), _numpy_type),
    ENCODE: ((2,), _encode),
    **dict.fromkeys(NUMPY_SCALARS, ((2,), _numpy_scalar)),
}
"""What may be called -> numbers of arguments, and what it makes of them: None if they are wrong."""
