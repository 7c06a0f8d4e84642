"""Hadamard matrices of the orders that feature widths have: Sylvester, Paley and their products.

Of our own because scipy builds those of powers of two only.
"""

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
    if order <= 2:
        return _SYLVESTER[:order, :order]
    if order % 4:
        return None
    first, second = order - 1, order // 2 - 1
    if first % 4 == 3 and _prime_and_degree(first)[0]:
        return _conference(first) + np.eye(order, dtype=np.int8)
    if second % 4 == 1 and _prime_and_degree(second)[0]:
        block = np.array([[1, -1], [-1, -1]], dtype=np.int8)
        diagonal = np.eye(second + 1, dtype=np.int8)
        return np.kron(_conference(second), _SYLVESTER) + np.kron(diagonal, block)
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


def _conference(q: int) -> Signs:
    """[q + 1, q + 1], zero on the diagonal and orthogonal; symmetric if q = 1 mod 4, else skew.

    Of the differences of the field's elements, whose digits in base p are the coefficients of
    polynomials over the integers mod p.
    """
    prime, degree = _prime_and_degree(q)
    places = prime ** np.arange(degree)
    digits = np.arange(q)[:, None] // places % prime  # [q, degree]
    difference = (digits[:, None] - digits[None]) % prime  # [q, q, degree]
    matrix = np.ones((q + 1, q + 1), dtype=np.int8)
    matrix[0, 0] = 0
    matrix[1:, 0] = 1 if q % 4 == 1 else -1
    matrix[1:, 1:] = _square_character(q)[difference @ places]
    return matrix


def _square_character(q: int) -> Signs:
    """[q]: of each element of the field 1 if it is a square, -1 if not, 0 for zero.

    The powers of a generator x of the field's units are the non-zero elements; the even ones are
    the squares. x is a root of x^k = low, for the first such polynomial that makes it generate.
    """
    prime, degree = _prime_and_degree(q)
    one = [1, *([0] * (degree - 1))]
    for low in itertools.product(range(prime), repeat=degree):
        element, powers = list(one), []
        for _ in range(q - 1):
            powers.append(sum(digit * prime**place for place, digit in enumerate(element)))
            shifted = zip([0, *element[:-1]], low, strict=True)
            element = [(a + element[-1] * b) % prime for a, b in shifted]
            if element == one or not any(element):
                break
        if len(powers) == q - 1 and element == one:
            character = np.zeros(q, dtype=np.int8)
            character[powers[0::2]] = 1
            character[powers[1::2]] = -1
            return character
    raise AssertionError(f"the field of {q} elements has a generator")


@functools.lru_cache
def _prime_and_degree(q: int) -> tuple[int, int]:
    """(p, k) with q = p^k; (0, 0) where q is no power of a prime."""
    prime = next((d for d in range(2, int(q**0.5) + 1) if q % d == 0), q)
    degree, rest = 0, q
    while rest % prime == 0 and rest > 1:
        rest, degree = rest // prime, degree + 1
    return (prime, degree) if rest == 1 and q > 1 else (0, 0)
