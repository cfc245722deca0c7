"""Gradients whose convolutions stay fast inside loops on a CPU, whoever wrote the model."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.extend import core

from advjax.types import Array, PyTree


def input_gradient(
    fn: Callable[[Array], tuple[Array, PyTree]],
) -> Callable[[Array], tuple[Array, PyTree]]:
    """Return `jax.grad(fn, has_aux=True)`, whose convolutions read NHWC images and HWIO kernels.

    XLA's CPU backend brings convolutions into that layout at the top level of a program only; in
    a loop any other layout is several times slower, and the gradient of a convolution has one.
    On other backends nothing is changed.

    Args:
      fn: `x -> (scalar, aux)`.

    Returns:
      `x -> (gradient, aux)`.
    """
    return fast_in_loops(jax.grad(fn, has_aux=True))


def fast_in_loops(fn: Callable[[Array], PyTree]) -> Callable[[Array], PyTree]:
    """Return `fn`, which differentiates something, with its convolutions in that layout."""

    def call(x: Array) -> PyTree:
        if jax.default_backend() != "cpu":
            return fn(x)
        closed, shapes = jax.make_jaxpr(fn, return_shape=True)(x)
        flat = core.jaxpr_as_fun(_rewrite(closed))(x)
        return jax.tree.unflatten(jax.tree.structure(shapes), flat)

    return call


def _rewrite(part: Any) -> Any:
    """Return a jaxpr with canonical convolutions, inner ones included; anything else as it is."""
    # on newer JAX a closed jaxpr is a jaxpr
    if isinstance(part, core.Jaxpr):
        return part.replace(eqns=[_rewrite(eqn) for eqn in part.eqns])
    if isinstance(part, core.ClosedJaxpr):
        return part.replace(jaxpr=_rewrite(part.jaxpr))
    if isinstance(part, core.JaxprEqn):
        if part.primitive is core.primitives.conv_general_dilated_p:
            return _canonical(part)
        params = {name: _rewrite(value) for name, value in part.params.items()}
        same = all(params[name] is value for name, value in part.params.items())
        return part if same else part.replace(params=params)
    if type(part) is tuple and any(isinstance(p, core.ClosedJaxpr | core.Jaxpr) for p in part):
        return tuple(_rewrite(p) for p in part)
    return part


def _canonical(eqn: Any) -> Any:
    """Return the equation of a convolution with its operands transposed as they should be."""
    lhs, rhs, out = eqn.params["dimension_numbers"]
    places = tuple(range(len(lhs)))
    # (batch, channels, space...) and (channels out, channels in, space...) by position
    images, kernels = (0, places[-1], *places[1:-1]), (places[-1], places[-2], *places[:-2])
    if (lhs, rhs, out) == (images, kernels, images):
        return eqn

    def order(spec: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(spec[wanted.index(place)] for place in places)

    @jax.jit
    def convolve(x: Array, w: Array) -> Array:
        numbers = lax.ConvDimensionNumbers(images, kernels, images)
        y = eqn.primitive.bind(
            lax.transpose(x, order(lhs, images)),
            lax.transpose(w, order(rhs, kernels)),
            **eqn.params | {"dimension_numbers": numbers},
        )
        return lax.transpose(y, order(images, out))

    (call,) = jax.make_jaxpr(convolve)(*(v.aval for v in eqn.invars)).jaxpr.eqns
    return eqn.replace(primitive=call.primitive, params=call.params)
