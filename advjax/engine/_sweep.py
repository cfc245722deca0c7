"""Whole robustness curves in one program: the smallest budget that breaks each example."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from advjax import threat
from advjax.engine import _cascade, _processes, _state, _trust
from advjax.engine._cascade import Images, Work
from advjax.engine._inputs import (
    Examples,
    check_calls,
    check_epsilons,
    check_examples,
    check_resources,
    check_settings,
    stacked,
)
from advjax.engine._reference import MakeAttack, outcome
from advjax.engine._results import SweepResult, across_processes, curve
from advjax.engine._resume import Ledger
from advjax.engine._stage import Progress, Tables
from advjax.engine._state import Finished, Settings
from advjax.random import typed
from advjax.types import Array, PyTree

MEMORY = 2**30


class Options(NamedTuple):
    """The options of `sweep`, which says what they are; of one model or of several.

    Attributes:
      restarts: of all attacks, or `[attacks]`.
      per_restart: for each attack, whether its restarts are about choices of their own: targets
        are then pairs `(target, choices)` whose `choices` are `[N, R, ...]`, and restart r of an
        example is about `(target, choices[r])`, or about the last choice. Empty: plain targets.
      take: as `sweep_models` has it; `done` too.
    """

    epsilons: Sequence[float] | np.ndarray
    key: Array
    restarts: int | Sequence[int] = 1
    slots: int | None = None
    order: str = "search"
    mesh: Mesh | None = None
    ids: Any = None
    warm_start: bool = False
    quantise: int | None = None
    memory_limit: int = MEMORY
    return_x_adv: bool = False
    diagnose: bool = True
    resume: Any = None
    per_restart: Sequence[bool] = ()
    take: Callable[[int, int, Finished, np.ndarray], None] | None = None
    done: Callable[[int, int, np.ndarray, Tables], None] | None = None
    progress: Callable[[Progress], None] | None = None


def sweep(
    make_attack: MakeAttack | Sequence[MakeAttack],
    params: PyTree,
    x: Any,
    y: PyTree,
    *,
    epsilons: Sequence[float] | np.ndarray,
    key: Array,
    restarts: int = 1,
    slots: int | None = None,
    order: str = "search",
    mesh: Mesh | None = None,
    ids: Any = None,
    warm_start: bool = False,
    quantise: int | None = None,
    memory_limit: int = MEMORY,
    return_x_adv: bool = False,
    diagnose: bool = True,
    resume: str | os.PathLike[str] | None = None,
    take: Callable[[int, Finished, np.ndarray], None] | None = None,
    done: Callable[[int, np.ndarray, Tables], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> SweepResult:
    """Find the smallest budget at which each example breaks.

    Args:
      make_attack: `params -> Attack`, built inside the compiled program; several are a cascade,
        in which later attacks see only what earlier ones left standing. The program is cached by
        the identity of the callable and the shapes: keep the callable, and other parameters,
        images or budgets compile nothing.
      params: the argument of `make_attack`, typically the variables of a model.
      x: `[N, H, W, C]`, uint8, or floats within the bounds of the ball. They stay on the device
        as uint8 where they are k / 255.
      y: `[N]` labels, or a pytree with leading `[N]`.
      epsilons: `[E]` budgets in pixel units, strictly increasing and positive.
      key: one key. An example's randomness depends on it, on the example's id, the restart and
        the attack's name only: not on its place, the slots or the devices.
      restarts: runs from different starts; one restart's success ends the others.
      slots: examples attacked at once on each device; None: a quarter of the examples, at least
        16, at most 32 on a CPU and 256 on an accelerator. With eight times as many examples hardly
        a slot is ever idle.
      order: `"search"` estimates each example's minimal budget, gallops and bisects;
        `"ascending"` climbs from the smallest budget; `"exhaustive"` runs every budget and every
        step, as the reference evaluator does.
      mesh: from `advjax.mesh.data_mesh`; every device gets its own share and queue. In a program
        of several processes every process passes the same examples and a mesh of all devices, and
        gets the whole result.
      ids: `[N]` unique integers, identities of the examples; None: 0..N-1.
      warm_start: a climb (`order="ascending"`) goes on from its best failed perturbation,
        rescaled to the next budget, instead of from the start of the attack.
      quantise: 8, 12 or 16: a success must survive rounding of its pixels to so many bits.
      memory_limit: bytes that the examples may take on one device; what is beyond is streamed.
      return_x_adv: also return the adversarial images.
      diagnose: also probe a few examples with more steps from another start, and with a budget
        that allows every image (iterated attacks only); the other signs of `trust` cost nothing.
      resume: a folder that keeps what is decided, every few seconds; the same call with the same
        folder goes on from there after a kill. With several processes, one that all of them see.
      take: called as `take(attack, finished, examples)` with every finished run, judged; for
        those who store rows. With several processes each hears of its own runs only.
      done: called as `done(attack, examples, tables)` every few seconds with the examples `[m]`
        that were decided since and their tables `[m, ...]`; with several processes as `take`.
      progress: called about once a second with a `Progress`, of this process's share.

    Returns:
      `SweepResult`.

    Raises:
      ValueError: budgets, sizes, pixels or options make no sense, or `resume` holds another
        sweep; said before any compute.
    """
    options = Options(
        epsilons=epsilons, key=key, restarts=restarts, slots=slots, order=order, mesh=mesh,
        ids=ids, warm_start=warm_start, quantise=quantise, memory_limit=memory_limit,
        return_x_adv=return_x_adv, diagnose=diagnose, resume=resume, progress=progress,
        take=(lambda _, *found: take(*found)) if callable(take) else take,
        done=(lambda _, *found: done(*found)) if callable(done) else done,
    )  # fmt: skip
    return run(make_attack, params, x, y, options)[0]


def sweep_models(
    make_attack: MakeAttack | Sequence[MakeAttack],
    params: PyTree,
    x: Any,
    y: PyTree,
    *,
    epsilons: Sequence[float] | np.ndarray,
    key: Array,
    stack: str | None = None,
    take: Callable[[int, int, Finished, np.ndarray], None] | None = None,
    done: Callable[[int, int, np.ndarray, Tables], None] | None = None,
    **options: Any,
) -> list[SweepResult]:
    """Sweep several models of one architecture at once, on the same examples.

    Each model has queues and slots of its own; its verdicts are those of `sweep` with its
    parameters, up to the rounding of a batch of networks.

    Args:
      make_attack: as in `sweep`, for the parameters of one model.
      params: a list or tuple of parameters, one a model; or one tree of leaves `[models, ...]`.
      x: `[N, H, W, C]`; y: `[N]`; epsilons: `[E]`; key: all as in `sweep`, for all models.
      stack: `"vmap"`: all models tick together, as one batch of networks, which fills an
        accelerator; `"map"`: one after the other inside of the program, which is faster on a CPU;
        None: by the backend.
      take: called as `take(model, attack, finished, examples)`; see `sweep`.
      done: called as `done(model, attack, examples, tables)`; see `sweep`.
      **options: any other argument of `sweep`. `slots` and `memory_limit` are for each model, and
        `progress` counts every example once for each model.

    Returns:
      One `SweepResult` a model.

    Raises:
      ValueError: as `sweep`; the parameters of the models differ in structure or shapes, there is
        no model, or `stack` is unknown.
    """
    if stack not in (None, "vmap", "map"):
        raise ValueError(f'stack: expected "vmap", "map" or None, got {stack!r}')
    if stack is None:
        stack = "map" if jax.default_backend() == "cpu" else "vmap"
    models, params = stacked(_processes.local(params))
    chosen = Options(epsilons=epsilons, key=key, take=take, done=done, **options)
    return run(make_attack, params, x, y, chosen, models=models, stack=stack)


def run(
    make_attack: MakeAttack | Sequence[MakeAttack],
    params: PyTree,
    x: Any,
    y: PyTree,
    options: Options,
    *,
    models: int = 1,
    stack: str = "map",
) -> list[SweepResult]:
    """Sweep `models` models, whose parameters are stacked if they are several."""
    budgets = check_epsilons(options.epsilons)
    params = _processes.local(params)
    one = params if models == 1 else jax.tree.map(lambda leaf: leaf[0], params)
    makers, attacks = _cascade.build(make_attack, one)
    for attack in attacks:
        if not attack.spec.minimal:
            threat.check_radius(attack.spec.ball, float(budgets[-1]))
    _cascade.check_balls(attacks)
    each = _cascade.restarts_of(options.restarts, len(makers))
    for count in each:
        check_settings(options.order, count, options.slots, options.quantise, options.warm_start)
    check_resources(options.key, options.mesh, options.memory_limit)
    calls = {name: getattr(options, name) for name in ("take", "done", "progress")}
    check_calls(options.resume, options.diagnose, **calls)
    examples = check_examples(x, y, options.ids, attacks[0].spec.ball.bounds)
    total = len(examples.images)
    mine, mesh, alone = _processes.share(total, options.mesh)
    # where there are more processes than examples, the last ones hold one and do nothing
    held = mine if len(mine) else np.zeros(1, int)
    part = examples if alone else jax.tree.map(lambda leaf: leaf[held], examples)
    settings = _settings(options, each, part, len(budgets), mesh, models, stack)
    chosen = list(options.per_restart) or [False] * len(makers)
    work = Work(makers, attacks, params, part, budgets, settings, mesh, mine, chosen)
    images = Images(part, models, len(budgets)) if options.return_x_adv else None
    key = typed(options.key)
    ledger = None if options.resume is None else _ledger(work, options, key)
    shares, last = _cascade.cascade(
        work, key, images, options.take, options.done, options.progress, ledger
    )
    shares = [
        share._replace(
            signs=_trust.merge(
                share.signs,
                _trust.compared(share.tables, attacks, work.chosen),
            )
        )
        for share in shares
    ]
    if options.diagnose and attacks[-1].spec.num_steps > 1 and not attacks[-1].spec.minimal:
        skipped = np.concatenate([s.tables[0].wrong | s.tables[0].idle for s in shares])
        counts, probed = _trust.probe(
            lambda levels: work.stage(len(makers) - 1, levels), last, skipped, budgets, key
        )
        shares = [
            share._replace(signs=_trust.merge(share.signs, found), probed=int(rows))
            for share, found, rows in zip(shares, counts, probed, strict=True)
        ]
    if images is not None:
        adversarial = np.split(images.images, models)
        shares = [s._replace(x_adv=x_adv) for s, x_adv in zip(shares, adversarial, strict=True)]
    return [curve(s if alone else across_processes(s, len(mine), total)) for s in shares]


def _settings(
    options: Options, restarts: list[int], part: Examples, num_budgets: int, mesh: Mesh | None,
    models: int, stack: str,
) -> list[Settings]:  # fmt: skip
    """Return the settings of each attack of the cascade."""
    exhaustive = options.order == "exhaustive"
    return [
        _cascade.sized(
            Settings(
                options.order, 0, 0, count, options.warm_start, options.quantise,
                options.take is not None, models, stack, bool(options.per_restart),
                later=number > 0 and not exhaustive,
            ),
            part, num_budgets, mesh, options.slots, options.memory_limit,
        )
        for number, count in enumerate(restarts)
    ]  # fmt: skip


def _ledger(work: Work, options: Options, key: Array) -> Ledger:
    """Open the folder of a sweep that can be resumed.

    A model is known by its parameters and by what it answers, an attack by the program of its start
    and of one step, in which every option of its maker is a number.
    """
    from advjax.store import fingerprint

    specs = [attack.spec for attack in work.attacks]
    identity = {
        "epsilons": work.budgets.tolist(),
        "order": options.order,
        "restarts": [settings.restarts for settings in work.settings],
        "warm_start": options.warm_start,
        "quantise": options.quantise,
        "return_x_adv": options.return_x_adv,
        "attacks": [[spec.name, spec.num_steps, spec.keep, spec.ball.name] for spec in specs],
        "bounds": [[np.asarray(b).tolist() for b in spec.ball.bounds] for spec in specs],
        "model": _answers(work, key),
        "steps": _programs(work, key),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "params": fingerprint(jax.tree.leaves(work.params)),
        "x": fingerprint(work.part.images),
        "y": fingerprint(jax.tree.leaves(work.part.targets)),
        "ids": fingerprint(work.part.ids),
    }
    return Ledger(options.resume, identity, jax.process_index(), jax.process_count())


def _answers(work: Work, key: Array) -> list[list[str]]:
    """Return loss and outputs of the first images, to few digits, for each attack and model."""
    few = jax.tree.map(lambda leaf: leaf[:4], work.part)
    models, found = work.settings[0].models, []
    for number, make_attack in enumerate(work.makers):
        settings = work.settings[number]
        target = settings.target(
            jax.tree.map(jnp.asarray, few.targets), jnp.zeros(len(few.ids), jnp.int32)
        )

        def answers(
            params: PyTree, make_attack: MakeAttack = make_attack, target: PyTree = target
        ) -> Any:
            images, keys = (
                _state.pixels(jnp.asarray(few.images)),
                jax.random.split(key, len(few.ids)),
            )
            output, loss, _ = outcome(make_attack(params).spec.objective, images, target, keys)
            return [loss, *jax.tree.leaves(output)]

        for m in range(models):
            one = (
                work.params if models == 1 else jax.tree.map(lambda leaf, m=m: leaf[m], work.params)
            )
            leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.jit(answers)(one)]
            found.append([f"{value:.2e}" for value in np.concatenate(leaves)[:64]])
    return found


def _programs(work: Work, key: Array) -> list[str]:
    """Return a digest of what each attack computes; nothing is compiled for it."""
    from advjax.store import fingerprint

    few = jax.tree.map(lambda leaf: leaf[:1], work.part)
    one = work.params
    if work.settings[0].models > 1:
        one = jax.tree.map(lambda leaf: leaf[0], work.params)
    digests = []
    for make_attack, settings in zip(work.makers, work.settings, strict=True):
        targets = jax.tree.map(jnp.asarray, few.targets)
        target = settings.target(targets, jnp.zeros(1, jnp.int32))

        def start_and_step(
            params: PyTree, images: Array, keys: Array, target: PyTree, eps: Array,
            make_attack: MakeAttack = make_attack,
        ) -> Any:  # fmt: skip
            attack = make_attack(params)
            state = attack.init(keys, images, target, eps)
            return attack.step(state, images, target, eps, False)

        images = _state.pixels(jnp.asarray(few.images))
        eps = jnp.ones(1, images.dtype)
        program = jax.make_jaxpr(start_and_step)(one, images, jax.random.split(key, 1), target, eps)
        # functions print where they lie in memory
        text = re.sub(r"0x[0-9a-f]+", "", str(program))
        digests.append(fingerprint([np.frombuffer(text.encode(), np.uint8), *_plain(program)]))
    return digests


def _plain(program: Any) -> list[np.ndarray]:
    """Return the constants of a program that are arrays of numbers."""
    return [
        np.asarray(const)
        for const in program.consts
        if not jnp.issubdtype(getattr(const, "dtype", np.int32), jax.dtypes.prng_key)
    ]
