"""What a PGD step costs, against the bare gradient of the same network in the same run.

    python scripts/bench_step.py [--model resnet18] [--stem cifar] [--width 64] [--size 32]
        [--batch 32] [--bfloat16] [--out FILE]

Rows: the jitted `jax.grad` called from Python (the reference), PGD-20 as one jitted program (start,
bookkeeping, projection and the final evaluation included), and torchattacks' PGD-20 on the same
weights and images where the bench extra is installed. Throughput in gradient rows (images x
steps) per second, as a ratio to the reference, pair by pair. Compile time stands apart.
`--bfloat16` adds the gradient and the attack in bfloat16, for accelerators (on a CPU it is slower);
nearly every row is broken at once here, so that the attack pays for judging it at most steps.
"""

import argparse

import _timing
import jax
import jax.numpy as jnp
import numpy as np

from advjax import attacks, losses, models, threat

STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("width", 64), ("size", 32), ("batch", 32), ("channels", 3), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--model", choices=("resnet18", "mobilenet_v2"), default="resnet18")
    parser.add_argument("--stem", choices=("cifar", "imagenet"), default="cifar")
    parser.add_argument("--bfloat16", action="store_true", help="also gradients in bfloat16")
    parser.add_argument("--out", default=None, help="write the table as JSON here")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (args.batch, args.size, args.size, args.channels)
    x = jnp.asarray(rng.uniform(0, 1, shape), jnp.float32)
    y = jnp.asarray(rng.integers(0, 10, args.batch), jnp.int32)
    model = models.ZOO[args.model](10, width=args.width, stem=args.stem)
    variables = models.random_variables(model, 0, x)
    programs = advjax_programs(model.apply, model.apply, variables, x, y)
    if args.bfloat16:
        low = advjax_programs(
            model.apply, models.in_precision(model, jnp.bfloat16), variables, x, y
        )
        programs |= {f"{name}, bfloat16": program for name, program in low.items()}
    peer = torch_pgd(variables, x, y, args)
    if peer is not None:
        programs["torchattacks pgd"] = peer
    seconds = _timing.paired(programs, args.rounds)
    work = STEPS * args.batch
    rows = []
    for name in programs:
        low, middle, high = _timing.median_ratio(seconds["jax.grad"], seconds[name])
        median = float(np.median(seconds[name]))
        rows.append({
            "program": name, "ms per step": 1000 * median / STEPS, "rows/s": work / median,
            "throughput / jax.grad": middle, "min": low, "max": high,
            "first call s": seconds[f"{name} (first)"][0],
        })  # fmt: skip
    print(
        f"{model.name} {args.stem} width {args.width}, batch {shape}, PGD-{STEPS}, "
        f"{args.rounds} rounds\n"
    )
    print(_timing.table(rows))
    if args.out:
        settings = {k: v for k, v in vars(args).items() if k != "out"}
        _timing.save(args.out, "bench_step", rows, {**settings, "steps": STEPS})


def advjax_programs(apply, gradient_apply, variables, x, y):
    """Return the bare gradient of `gradient_apply`, and PGD on `apply` that follows it."""
    key = jax.random.key(0)

    @jax.jit
    def gradient(variables, x, y):
        def total(x):
            return jax.vmap(losses.cross_entropy)(gradient_apply(variables, x), y).sum()

        return jax.grad(total)(x)

    @jax.jit
    def attacked(variables, x, y, eps):
        objective = attacks.from_logits(
            lambda x: apply(variables, x),
            loss=losses.cross_entropy,
            gradient_fn=None if gradient_apply is apply else lambda x: gradient_apply(variables, x),
        )
        attack = attacks.pgd(objective, threat.linf(), num_steps=STEPS, step_size=0.25)
        return attacks.run(attack, key, x, y, eps, stop="budget")

    def bare():
        for _ in range(STEPS):
            g = jax.block_until_ready(gradient(variables, x, y))
        return g

    return {"jax.grad": bare, "advjax pgd": lambda: attacked(variables, x, y, 8 / 255)}


def torch_pgd(variables, x, y, args):
    """Return torchattacks' PGD on the same weights, or None where it is not installed."""
    try:
        import torch
        import torchattacks
        from _torch_mobilenet import MobileNetV2
        from _torch_peer import ResNet18, with_weights
    except ImportError as error:
        print(f"torchattacks is left out ({error}); it is in the bench extra\n")
        return None
    make = {"resnet18": ResNet18, "mobilenet_v2": MobileNetV2}[args.model]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = with_weights(make(10, args.width, args.channels, args.stem), jax.device_get(variables))
    net = net.to(device)
    images = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2).copy(), device=device)
    labels = torch.tensor(np.asarray(y), dtype=torch.long, device=device)
    atk = torchattacks.PGD(net, eps=8 / 255, alpha=2 / 255, steps=STEPS)

    def program():
        return atk(images, labels).cpu().numpy()

    return program


if __name__ == "__main__":
    main()
