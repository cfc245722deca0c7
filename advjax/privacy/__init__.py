"""Primitives that keep training data private: what one example, one client or one server learns.

gradient = privacy.dp_gradient(loss, params, (x, y), key, max_norm=1.0, noise_multiplier=1.1)
hidden = [privacy.hide(update, seeds[i], i) for i, update in enumerate(updates)]
total = privacy.reveal(hidden)
public, private = privacy.paillier.keypair()

What turns noise into a statement of (epsilon, delta) is an accountant, and what agrees on seeds a
protocol: libraries that are kept for it (dp-accounting, jax-privacy) have both.
"""

from advjax.privacy import _paillier as paillier
from advjax.privacy._dp_sgd import dp_gradient
from advjax.privacy._secure_sum import hide, reveal

__all__ = ["dp_gradient", "hide", "paillier", "reveal"]
