"""What a step of each training method costs, against a bare training step in the same run.

    python scripts/bench_training.py [--width 16] [--size 28] [--batch 64] [--steps 5] [--out FILE]

The bare step is what anybody would write: the gradient of the mean cross entropy in the parameters
and SGD with momentum, jitted. A method makes `passes` of them: one for each step of its attack and
one for each version of the batch that its loss sees, though a pass of an attack needs no gradient
in the parameters. "per pass" is its time over so many bare steps (bound: 1.15). Where the bench
extra is installed, PGD adversarial training in PyTorch on the same weights stands beside it.
"""

import argparse

import _timing
import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import losses, models, training
from advjax.config import OptimizerConfig, TrainConfig
from advjax.training import methods
from advjax.types import Batch

EPS = 8 / 255
BOUND = 1.15
OPTIMIZER = OptimizerConfig(learning_rate=0.01, schedule="constant")


def passes(name, steps, most):
    """Return the steps of the attack and the versions that the loss sees.

    A batch of rows that draw their steps takes as many as the longest row.
    """
    attack = {"standard": 0, "distillation": 0, "gradient": 0, "free": 0, "fgsm": 1, "fast": 1,
              "mixed": 1 + steps, "mpadvt": most, "maadvt": most}  # fmt: skip
    versions = {"trades": 2, "mart": 2, "maadvt": 2, "hat": 3, "mixed": 3, "free": 4,
                "gradient": 3, "distillation": 2}  # fmt: skip
    return attack.get(name, steps) + versions.get(name, 1)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = (("width", 16), ("size", 28), ("batch", 64), ("channels", 1), ("steps", 5),
             ("rounds", 5))  # fmt: skip
    for name, value in sizes:
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--methods", nargs="*", default=[*methods.METHODS, "pgd-awp", "trades-awp"])
    parser.add_argument("--no-peers", action="store_true", help="leave PyTorch out")
    parser.add_argument("--out", default=None, help="write the table as JSON here")
    args = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    shape = (args.batch, args.size, args.size, args.channels)
    batch = Batch(
        image=jnp.asarray(rng.uniform(0, 1, shape), jnp.float32),
        target=jnp.asarray(rng.integers(0, 2, args.batch), jnp.int32),
        id=jnp.arange(args.batch),
        valid=jnp.ones(args.batch, bool),
    )
    model = models.resnet18(num_classes=2, width=args.width, stem="imagenet")
    variables = models.random_variables(model, 0, batch.image)
    programs = {"bare": bare_step(model, variables, batch)}
    for name in args.methods:
        programs[name] = method_step(name, model, variables, batch, args.steps)
    peer = None if args.no_peers else torch_pgd(variables, batch, args)
    if peer is not None:
        programs["pgd in PyTorch"] = peer
    seconds = _timing.paired(programs, args.rounds)
    rows = [_row(name, seconds, args.steps) for name in programs]
    print(f"ResNet-18 width {args.width}, batch {shape}, PGD-{args.steps}, {args.rounds} rounds\n")
    print(_timing.table(rows))
    if peer is not None and "pgd" in programs:
        low, middle, high = _timing.median_ratio(seconds["pgd in PyTorch"], seconds["pgd"])
        print(f"\nspeed of PGD training over PyTorch's: {middle:.2f} ({low:.2f} to {high:.2f})")
    if args.out:
        settings = {k: v for k, v in vars(args).items() if k not in ("out", "methods")}
        _timing.save(args.out, "bench_training", rows, settings)


def _row(name, seconds, steps):
    base, _, wrapped = name.partition("-")
    count = 1
    if name == "pgd in PyTorch":
        count = steps + 1
    elif name != "bare":
        # weights are perturbed by one more pass over what the loss sees
        count = passes(base, steps, 9)
        count += (passes(base, steps, 9) - steps) * bool(wrapped)
    low, middle, high = _timing.median_ratio(seconds[name], seconds["bare"])
    return {
        "program": name, "ms": 1000 * float(np.median(seconds[name])), "passes": count,
        "per pass": middle / count, "min": low / count, "max": high / count,
        "within": "yes" if middle / count <= BOUND else "NO",
        "first call s": seconds[f"{name} (first)"][0],
    }  # fmt: skip


def bare_step(model, variables, batch):
    """Return one update of the parameters on clean images, written by hand."""
    optimizer = optax.sgd(0.01, momentum=0.9, nesterov=True)

    @jax.jit
    def step(variables, held, image, target):
        def loss(params):
            logits, new = model.apply({**variables, "params": params}, image, train=True)
            return jax.vmap(losses.cross_entropy)(logits, target).mean(), new

        gradient, new = jax.grad(loss, has_aux=True)(variables["params"])
        updates, held = optimizer.update(gradient, held)
        params = optax.apply_updates(variables["params"], updates)
        return {**variables, **new, "params": params}, held

    held = optimizer.init(variables["params"])
    return lambda: step(variables, held, batch.image, batch.target)


def method_step(name, model, variables, batch, steps):
    """Return one step of a method, from the same state every time."""
    base, _, wrapped = name.partition("-")
    config = TrainConfig(
        method=base, eps=EPS, attack_steps=steps, optimizer=OPTIMIZER,
        batch_size=len(batch.id), awp=0.005 if wrapped else 0.0,
    )  # fmt: skip
    helper = methods.Helper(model.apply, jax.tree.map(lambda leaf: leaf * 1.1, variables))
    shape = batch.image.shape[1:]
    method = methods.build(config, "single", methods.Context(shape, helper))
    optimizer = training.build_optimizer(OPTIMIZER, 100)
    params, model_state = training.split_variables(variables)
    state = training.TrainState(
        params, model_state, optimizer.init(params), None, method.init(params),
        jnp.zeros((), jnp.int32), jnp.zeros((), jnp.uint32),
    )  # fmt: skip
    step = jax.jit(training.make_train_step(model, method, optimizer))
    return lambda: step(state, batch)


def torch_pgd(variables, batch, args):
    """Return PGD training in PyTorch on the same weights, or None where it is not installed."""
    try:
        import torch
        from _torch_peer import from_variables
    except ImportError as error:
        print(f"PyTorch is left out ({error}); it is in the bench extra\n")
        return None
    net = from_variables(jax.device_get(variables), 2, args.width, args.channels, "imagenet")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net.to(device).requires_grad_(True)
    clean = torch.tensor(np.asarray(batch.image).transpose(0, 3, 1, 2).copy(), device=device)
    labels = torch.tensor(np.asarray(batch.target), dtype=torch.long, device=device)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, nesterov=True)
    loss = torch.nn.functional.cross_entropy

    def step():
        net.eval()
        x = (clean + EPS * (2 * torch.rand_like(clean) - 1)).clamp(0, 1)
        for _ in range(args.steps):
            x.requires_grad_(True)
            gradient = torch.autograd.grad(loss(net(x), labels), x)[0]
            x = x.detach() + 2.5 / args.steps * EPS * gradient.sign()
            x = torch.min(torch.max(x, clean - EPS), clean + EPS).clamp(0, 1)
        net.train()
        optimizer.zero_grad()
        loss(net(x), labels).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return np.zeros(())

    return step


if __name__ == "__main__":
    main()
