"""Additively homomorphic encryption of integers: a server adds up what it cannot read.

Paillier (1999), with the generator n + 1. To learn and experiment with; Python's integers take no
constant time, so that secrets of other people belong to a library that is audited.
"""

import math
import operator
import secrets
from typing import NamedTuple


class PublicKey(NamedTuple):
    """The modulus `n`; integers in (-n/2, n/2) can be encrypted."""

    n: int


class PrivateKey(NamedTuple):
    """`n`, lambda = (p - 1)(q - 1), and its inverse modulo n."""

    n: int
    order: int
    inverse: int


def keypair(bits: int = 2048) -> tuple[PublicKey, PrivateKey]:
    """Draw a pair of keys.

    Args:
      bits: of the modulus; 2048 is what one takes today, a few hundred for tests.

    Raises:
      ValueError: there are fewer than 64 bits, or an odd number of them.
    """
    if bits < 64 or bits % 2:
        raise ValueError(f"bits: must be even and at least 64, got {bits}")
    p = q = _prime(bits // 2)
    while p == q:
        q = _prime(bits // 2)
    n, order = p * q, (p - 1) * (q - 1)
    return PublicKey(n), PrivateKey(n, order, pow(order, -1, n))


def encrypt(public: PublicKey, value: int) -> int:
    """Return a ciphertext of an integer; another one each time.

    Raises:
      TypeError: it is no integer.
      ValueError: the integer is too large for the key.
    """
    n, value = public.n, operator.index(value)
    if 2 * abs(value) >= n:
        raise ValueError(f"value: {value} does not fit into a key of {n.bit_length()} bits")
    while math.gcd(noise := 1 + secrets.randbelow(n - 1), n) != 1:
        pass
    return (1 + value * n) * pow(noise, n, n * n) % (n * n)


def decrypt(private: PrivateKey, cipher: int) -> int:
    """Return the integer of a ciphertext."""
    n = private.n
    value = (pow(cipher, private.order, n * n) - 1) // n * private.inverse % n
    return value - n if 2 * value > n else value


def add(public: PublicKey, *ciphers: int) -> int:
    """Return a ciphertext of the sum."""
    return math.prod(ciphers) % (public.n * public.n)


def scale(public: PublicKey, cipher: int, factor: int) -> int:
    """Return a ciphertext of `factor`, which is not secret, times the integer."""
    return pow(cipher, operator.index(factor), public.n * public.n)


def _prime(bits: int) -> int:
    """Return a random prime of so many bits, the two highest set."""
    while True:
        number = secrets.randbits(bits) | 3 << bits - 2 | 1
        if _is_prime(number):
            return number


def _is_prime(number: int, rounds: int = 40) -> bool:
    """Miller and Rabin's test; wrong once in 4^40."""
    odd = number - 1
    twos = (odd & -odd).bit_length() - 1
    odd >>= twos
    for _ in range(rounds):
        x = pow(2 + secrets.randbelow(number - 3), odd, number)
        if x in (1, number - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % number
            if x == number - 1:
                break
        else:
            return False
    return True
