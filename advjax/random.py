"""Keys derived from what an example *is*, never from where it stands in a batch."""

import zlib

import jax
import jax.numpy as jnp

Array = jax.Array


def typed(key: Array) -> Array:
    """Return a typed key array; raw `uint32[..., 2]` keys are wrapped.

    Raises:
      ValueError: it is no key.
    """
    if jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key):
        return key
    if jnp.shape(key)[-1:] != (2,):
        raise ValueError(
            f"key: expected jax.random.key(seed), one or [B], got an array of shape "
            f"{jnp.shape(key)}"
        )
    return jax.random.wrap_key_data(jnp.asarray(key, jnp.uint32))


def stable_id(name: str | int) -> int:
    """Return a number in [0, 2**31) made from the name only (CRC-32), or the number itself."""
    if isinstance(name, str):
        return zlib.crc32(name.encode()) & 0x7FFFFFFF
    return int(name)


def example_keys(
    key: Array, ids: Array, restart: Array | int = 0, attack_id: Array | int | str = 0
) -> Array:
    """Make one key per example from stable identities.

    Args:
      key: one key, typed or raw.
      ids: `[B]` integers, the identities of the examples.
      restart: number of the restart, scalar or `[B]`.
      attack_id: number or name of the attack, so that two attacks do not share a start.

    Returns:
      `[B]` typed keys. The same (key, id, restart, attack) gives the same key in every batch,
      split, order and device. eps is not folded in: curves over budgets are paired.
    """
    attack = stable_id(attack_id) if isinstance(attack_id, str) else attack_id
    ids = jnp.asarray(ids)
    restarts = jnp.broadcast_to(jnp.asarray(restart), ids.shape)
    attacks = jnp.broadcast_to(jnp.asarray(attack), ids.shape)

    def one(i: Array, r: Array, a: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(base, i), r), a)

    base = typed(key)
    return jax.vmap(one)(ids, restarts, attacks)


def row_keys(key: Array, num_rows: int) -> Array:
    """Return `[B]` typed keys from one key (row i gets `fold_in(key, i)`) or from `[B]` keys.

    Raises:
      ValueError: the keys are neither one nor `num_rows`.
    """
    keys = typed(key)
    if keys.ndim == 0:
        return jax.vmap(lambda i: jax.random.fold_in(keys, i))(jnp.arange(num_rows))
    if keys.shape != (num_rows,):
        raise ValueError(
            f"key: expected one key or {num_rows} keys, one per row, got shape {keys.shape}; "
            "make them with advjax.random.example_keys(key, ids)"
        )
    return keys
