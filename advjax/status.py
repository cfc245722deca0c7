"""What happened to a row inside a loop, as an int8 code with a sentence."""

import enum


class Status(enum.IntEnum):
    """Codes of `AttackResult.status`; of two codes the larger one is kept."""

    OK = 0
    ZERO_GRADIENT = 1
    NON_FINITE = 2
    PRUNED = 3
    CYCLED = 4
    EXHAUSTED = 5
    WRONG_WHEN_CLEAN = 6
    INVALID_IMAGE = 7
    NOTHING_TO_REACH = 8


_SENTENCES = {
    Status.OK: "nothing remarkable",
    Status.ZERO_GRADIENT: "the gradient was exactly zero at some step, which moved nothing: "
    "gradient masking, a saturated loss or a constant model",
    Status.NON_FINITE: "the loss or the gradient was NaN or infinite at some step; those entries "
    "moved nothing and such points are no success",
    Status.PRUNED: "not attacked: an attack at another budget had decided the row",
    Status.CYCLED: "the iterate repeated, so that no further step could succeed",
    Status.EXHAUSTED: "every step was spent without success",
    Status.WRONG_WHEN_CLEAN: "wrong before any attack: broken at every budget, at no cost",
    Status.INVALID_IMAGE: "the clean image has NaN pixels or pixels outside of the bounds of the "
    "ball, so that nothing the row says counts: rescale the images, or give the ball its bounds",
    Status.NOTHING_TO_REACH: "no output of the model changes the loss, and none is a success: the "
    "target has no known finding, or nothing that the goal could change; right at every budget",
}


def explain(code: int) -> str:
    """Return the sentence that belongs to a status code.

    Raises:
      ValueError: the code is not a `Status`.
    """
    try:
        return _SENTENCES[Status(int(code))]
    except ValueError:
        known = ", ".join(f"{s.value}={s.name}" for s in Status)
        raise ValueError(f"unknown status code {code}; known: {known}") from None
