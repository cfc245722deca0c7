"""Masks of a secure sum cancel to the last bit; products of ciphertexts are sums."""

import math

import jax
import numpy as np
import pytest

from advjax import privacy
from advjax.privacy import paillier

pytestmark = pytest.mark.unoptimised

RNG = np.random.default_rng(5)


def seeds_of(clients):
    """Keys that each two clients share."""
    pair = lambda i, j: jax.random.fold_in(jax.random.key(min(i, j)), max(i, j))
    return [[None if i == j else pair(i, j) for j in range(clients)] for i in range(clients)]


@pytest.mark.parametrize("clients", [1, 2, 5])
def test_masks_cancel(clients):
    updates = [
        {"w": RNG.normal(size=(40, 50)).astype(np.float32), "b": RNG.normal(size=7)}
        for _ in range(clients)
    ]
    hide = jax.jit(privacy.hide, static_argnums=2)
    hidden = [
        hide(u, s, i) for i, (u, s) in enumerate(zip(updates, seeds_of(clients), strict=True))
    ]
    total = privacy.reveal(hidden)
    for name in ("w", "b"):
        fixed = [np.round(np.float32(u[name]) * np.float32(2**16)) for u in updates]
        np.testing.assert_array_equal(total[name], np.sum(fixed, 0, dtype=np.float64) / 2**16)
        exact = np.sum([u[name] for u in updates], 0)
        np.testing.assert_allclose(total[name], exact, atol=clients * 2**-17 + 1e-6)


def test_what_is_sent_says_nothing():
    update, nothing = np.full(20000, 3.0, np.float32), np.zeros(20000, np.float32)
    seeds = seeds_of(3)
    sent = np.asarray(privacy.hide(update, seeds[0], 0)) / 2**32
    assert abs(sent.mean() - 0.5) < 0.01
    assert abs(sent.var() - 1 / 12) < 0.005
    # two of three are as blind as one
    some = privacy.hide(update, seeds[0], 0) + privacy.hide(nothing, seeds[1], 1)
    assert abs((np.asarray(some) / 2**32).var() - 1 / 12) < 0.005


def test_the_largest_sums_do_not_wrap_around():
    clients = 7
    for sign in (-1, 1):
        hidden = [
            privacy.hide(np.float32([sign * 1e9]), seeds, i)
            for i, seeds in enumerate(seeds_of(clients))
        ]
        np.testing.assert_allclose(privacy.reveal(hidden), sign * 32768, rtol=1e-6)


def test_bad_clients():
    with pytest.raises(ValueError, match="own: must be a client of 2"):
        privacy.hide(np.zeros(1), seeds_of(2)[0], 2)
    with pytest.raises(ValueError, match="that of client 1 is missing"):
        privacy.hide(np.zeros(1), [None, None, jax.random.key(0)], 0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        privacy.hide(np.array([1.0, np.nan]), seeds_of(2)[0], 0)
    with pytest.raises(ValueError, match="got none"):
        privacy.reveal([])


@pytest.fixture(scope="module")
def keys():
    return paillier.keypair(256)


def test_products_of_ciphertexts_are_sums(keys):
    public, private = keys
    numbers = [0, 1, -1, 123456789, -(10**30), public.n // 2, -(public.n // 2)]
    for a in numbers:
        cipher = paillier.encrypt(public, a)
        assert paillier.decrypt(private, cipher) == a
        assert paillier.encrypt(public, a) != cipher
    for a, b in ((3, 4), (-5, 2), (10**30, -(10**29))):
        ciphers = paillier.encrypt(public, a), paillier.encrypt(public, b)
        assert paillier.decrypt(private, ciphers[0] * ciphers[1] % public.n**2) == a + b
        assert paillier.decrypt(private, paillier.add(public, *ciphers)) == a + b
        assert paillier.decrypt(private, paillier.scale(public, ciphers[0], -7)) == -7 * a


def test_keys_are_products_of_two_primes_of_the_asked_size(keys):
    public, private = keys
    assert public.n.bit_length() == 256
    # p + q from n and (p - 1)(q - 1)
    both = public.n + 1 - private.order
    apart = math.isqrt(both**2 - 4 * public.n)
    p, q = (both - apart) // 2, (both + apart) // 2
    assert 1 < p < q
    assert p * q == public.n
    assert p.bit_length() == q.bit_length() == 128
    assert all(pow(base, prime - 1, prime) == 1 for base in (2, 3, 5) for prime in (p, q))
    assert paillier.keypair(64)[0] != paillier.keypair(64)[0]
    composites = [561, 1729, 2**31 + 1, 3215031751]
    assert not any(paillier._is_prime(number, 40) for number in composites)
    assert all(paillier._is_prime(number, 40) for number in (5, 65537, 2**61 - 1))


def test_bad_numbers(keys):
    with pytest.raises(ValueError, match="does not fit into a key of 256 bits"):
        paillier.encrypt(keys[0], 2**255)
    with pytest.raises(TypeError, match="float"):
        paillier.encrypt(keys[0], 1.5)
    assert paillier.decrypt(keys[1], paillier.encrypt(keys[0], np.int64(-5))) == -5
    with pytest.raises(ValueError, match="bits: must be even"):
        paillier.keypair(32)
