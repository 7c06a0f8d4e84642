"""Hadamard matrices of the orders that feature widths have: Sylvester, Paley and their products."""

import functools
import itertools

import numpy as np
import numpy.typing as npt

Signs = npt.NDArray[np.int8]

_RANDOM_SEED = 20240
_SYLVESTER: Signs = np.array([[1, 1], [1, -1]], dtype=np.int8)


def hadamard(order: int) -> Signs | None:
    """A Hadamard matrix [order, order]: entries 1 and -1, rows orthogonal to each other.

    Built by Paley's first and second construction over the fields of q = order - 1 and
    q = order / 2 - 1 elements, or as a Kronecker product of smaller ones (with the factor 2 that
    is Sylvester's). None where none of them applies: always for orders above 2 that are no
    multiples of 4, and for a few others (92, 116, 156, ...).
    """
    if order == 1:
        return np.ones((1, 1), dtype=np.int8)
    if order == 2:
        return _SYLVESTER
    if order % 4:
        return None
    if (order - 1) % 4 == 3 and _prime_power(order - 1):
        return _paley_one(order - 1)
    if (order // 2 - 1) % 4 == 1 and _prime_power(order // 2 - 1):
        return _paley_two(order // 2 - 1)
    for factor in range(2, int(order**0.5) + 1):
        if order % factor == 0:
            left, right = hadamard(factor), hadamard(order // factor)
            if left is not None and right is not None:
                return np.kron(left, right)
    return None


def spreading_rotation(order: int) -> tuple[npt.NDArray[np.float64], bool]:
    """An orthogonal matrix [order, order] that spreads a variance evenly over all channels.

    Returns:
        A Hadamard matrix divided by sqrt(order), and True; or, where `hadamard` knows none, a
        random orthogonal matrix (always the same for an order), which spreads only about evenly,
        and False.
    """
    signs = hadamard(order)
    if signs is not None:
        return signs / np.sqrt(order), True
    normal = np.random.default_rng((_RANDOM_SEED, order)).standard_normal((order, order))
    basis, upper = np.linalg.qr(normal)
    rotation: npt.NDArray[np.float64] = basis * np.sign(np.diag(upper))
    return rotation, False


def _paley_one(q: int) -> Signs:
    """Order q + 1 for a prime power q = 3 mod 4."""
    return _conference(q) + np.eye(q + 1, dtype=np.int8)


def _paley_two(q: int) -> Signs:
    """Order 2 (q + 1) for a prime power q = 1 mod 4."""
    diagonal = np.eye(q + 1, dtype=np.int8)
    block = np.array([[1, -1], [-1, -1]], dtype=np.int8)
    return np.kron(_conference(q), _SYLVESTER) + np.kron(diagonal, block)


def _conference(q: int) -> Signs:
    """[q + 1, q + 1], zero on the diagonal and orthogonal; symmetric if q = 1 mod 4, else skew."""
    square = _square_character(q)
    digits = _digits(q)
    prime, degree = _prime_and_degree(q)
    difference = (digits[:, None] - digits[None]) % prime  # [q, q, degree]
    inner = square[difference @ prime ** np.arange(degree)]
    matrix = np.ones((q + 1, q + 1), dtype=np.int8)
    matrix[0, 0] = 0
    matrix[1:, 0] = 1 if q % 4 == 1 else -1
    matrix[1:, 1:] = inner
    return matrix


def _square_character(q: int) -> Signs:
    """[q]: of each element of the field 1 if it is a square, -1 if not, 0 for zero.

    Element e is the polynomial over the integers mod p whose coefficients are e's digits in base
    p. The powers of a generator x of the field's units are the non-zero elements; the even ones
    are the squares.
    """
    prime, degree = _prime_and_degree(q)
    for low in itertools.product(range(prime), repeat=degree):
        powers = _powers_of_x(low, prime, q)
        if powers is not None:
            character = np.zeros(q, dtype=np.int8)
            character[powers[0::2]] = 1
            character[powers[1::2]] = -1
            return character
    raise AssertionError(f"the field of {q} elements has a generator")


def _powers_of_x(low: tuple[int, ...], prime: int, q: int) -> list[int] | None:
    """The q - 1 powers of x modulo the polynomial x^k = low; None if they are fewer."""
    one = (1, *([0] * (len(low) - 1)))
    element, powers = list(one), []
    for _ in range(q - 1):
        powers.append(sum(digit * prime**place for place, digit in enumerate(element)))
        top = element[-1]
        shifted = [0, *element[:-1]]
        element = [(a + top * b) % prime for a, b in zip(shifted, low, strict=True)]
        if tuple(element) == one or not any(element):
            break
    return powers if len(powers) == q - 1 and tuple(element) == one else None


def _digits(q: int) -> npt.NDArray[np.int64]:
    """[q, k]: every number below q = p^k in base p."""
    prime, degree = _prime_and_degree(q)
    return np.arange(q)[:, None] // prime ** np.arange(degree) % prime


def _prime_power(q: int) -> bool:
    return _prime_and_degree(q)[0] > 0


@functools.lru_cache
def _prime_and_degree(q: int) -> tuple[int, int]:
    """(p, k) with q = p^k; (0, 0) where q is no power of a prime."""
    prime = next((d for d in range(2, int(q**0.5) + 1) if q % d == 0), q)
    degree, rest = 0, q
    while rest % prime == 0 and rest > 1:
        rest, degree = rest // prime, degree + 1
    return (prime, degree) if rest == 1 and q > 1 else (0, 0)
