"""Panels of clean image, perturbation and adversarial image, as data URIs."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from advjax import metrics
from advjax.report import _boxes, _masks
from advjax.report._format import budget, number, percent
from advjax.report._results import Array, Results
from advjax.store import Panel

_LARGEST = 128  # pixels on a side; larger images are made smaller, and the page says so
_MOST_BYTES = 12_000_000  # of all images together


class Card(NamedTuple):
    """One example of a panel.

    Attributes:
      example_id: identity.
      clean: data URI.
      perturbation: data URI.
      adversarial: data URI.
      drawn: data URI of the clean image with its true mask or boxes; empty where there is none.
      truth: true label or findings.
      before: what the model says of the clean image, with its probability.
      after: what it says of the adversarial one.
      wrong_before: it was wrong before any attack.
      fooled: the attack succeeded.
    """

    example_id: int
    clean: str
    perturbation: str
    adversarial: str
    drawn: str
    truth: str
    before: str
    after: str
    wrong_before: bool
    fooled: bool


class Sheet(NamedTuple):
    """The cards of one model under one attack at one budget.

    Attributes:
      model: name.
      attack: name.
      budget: as text.
      gain: how much the perturbation is amplified.
      cards: the examples.
      left_out: how many examples are stored but not shown.
      shrunk: the images are shown smaller than they are.
      size: height and width as stored.
      drawn: what `Card.drawn` shows.
      legend: names and colours of the classes of boxes.
    """

    model: str
    attack: str
    budget: str
    gain: float
    cards: list[Card]
    left_out: int
    shrunk: bool
    size: tuple[int, int]
    drawn: str
    legend: list[tuple[str, str]]


def sheets(results: Results) -> list[Sheet]:
    """Make the sheets of all panels, as many examples as fit into a page of bearable size."""
    models = [model.name for group in results.groups for model in group.models]
    places = {name: place for place, name in enumerate([*results.norms, *models])}
    panels = sorted(
        results.panels,
        key=lambda p: (places.get(p.attack, len(places)), p.eps, places.get(p.model, len(places))),
    )
    shown = _how_many(panels)
    return [_sheet(results, panel, shown) for panel in panels]


def png(image: Array) -> bytes:
    """Encode one image.

    Args:
      image: `[H, W, C]` float in [0, 1]; 1 channel is grey, 3 are RGB, of any other number the
        mean is shown in grey. Larger images are reduced to 128 pixels on the longer side.
    """
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if pixels.shape[2] == 3:
        picture = Image.fromarray(pixels)
    else:
        grey = np.rint(np.clip(image, 0, 1).mean(2) * 255).astype(np.uint8)
        picture = Image.fromarray(grey)
    if max(picture.size) > _LARGEST:
        picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_uri(data: bytes) -> str:
    """Make a PNG part of a page."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def gain_of(panel: Panel) -> float:
    """Return the amplification that makes the largest change fill the range, rounded down.

    A change is shown as grey + gain * change, grey being one half; 0 where nothing changed.
    """
    largest = float(np.abs(panel.adv - panel.clean).max(initial=0.0))
    if largest == 0:
        return 0.0
    gain = 0.5 / largest
    return float(np.floor(gain * 1.0001)) if gain >= 1 else gain


def _how_many(panels: list[Panel]) -> int:
    """Return how many examples of each panel are shown."""
    most = max((len(panel.clean) for panel in panels), default=0)
    if not most:
        return 0
    pixels = sum(
        min(panel.clean.shape[1], _LARGEST) * min(panel.clean.shape[2], _LARGEST) * 3 * 2.5 * 4 / 3
        for panel in panels
    )
    return max(1, min(most, int(_MOST_BYTES / pixels)))


def _sheet(results: Results, panel: Panel, shown: int) -> Sheet:
    """Make one sheet."""
    gain = gain_of(panel)
    wrong, success = _verdicts(results, panel)
    drawn = "mask" if panel.clean_mask is not None else ""
    drawn = "boxes" if panel.true_boxes is not None else drawn
    cards = []
    for index in range(min(shown, len(panel.clean))):
        clean, adv = panel.clean[index], panel.adv[index]
        truth, before, after = _written(panel, index)
        cards.append(
            Card(
                example_id=int(panel.example_id[index]),
                clean=data_uri(png(_drawn(panel, clean, "clean", index))),
                perturbation=data_uri(png(0.5 + gain * (adv - clean))),
                adversarial=data_uri(png(_drawn(panel, adv, "adv", index))),
                drawn=data_uri(png(_drawn(panel, clean, "true", index))) if drawn else "",
                truth=truth,
                before=before,
                after=after,
                wrong_before=bool(wrong[index]),
                fooled=bool(success[index]),
            )
        )
    height, width = panel.clean.shape[1:3]
    return Sheet(
        model=panel.model,
        attack=panel.attack,
        budget=budget(panel.eps, results.norms.get(panel.attack, "linf")),
        gain=gain,
        cards=cards,
        left_out=len(panel.clean) - len(cards),
        shrunk=max(height, width) > _LARGEST,
        size=(height, width),
        drawn=drawn,
        legend=_boxes.legend(panel.class_names) if drawn == "boxes" else [],
    )


def _drawn(panel: Panel, image: Array, which: str, index: int) -> Array:
    """Return an image with the outlines of its mask or boxes, `clean`, `adv` or `true` ones."""
    if panel.true_boxes is not None:
        return _boxes.outlined(image, getattr(panel, f"{which}_boxes")[index])
    masks = panel.target if which == "true" else getattr(panel, f"{which}_mask")
    return image if panel.clean_mask is None else _masks.outlined(image, masks[index])


def _written(panel: Panel, index: int) -> tuple[str, str, str]:
    """Return the truth, and what is said of both images."""
    target, names = panel.target[index], panel.class_names
    before, after = panel.clean_probabilities[index], panel.adv_probabilities[index]
    if panel.true_boxes is not None:
        return _boxes.truth(target, names), _boxes.said(before), _boxes.said(after)
    return _truth(target, names), _said(before, target, names), _said(after, target, names)


def _verdicts(results: Results, panel: Panel) -> tuple[Array, Array]:
    """Return which images count as broken, before the attack and under it.

    As the rows have it, by the attack's own word for broken; where there is no such row, what the
    outputs say.
    """

    def told(outputs: Array) -> Array:
        pairs = zip(outputs, panel.target, strict=True)
        boxed = panel.true_boxes is not None
        return np.array([_boxes.wrong(o) if boxed else _wrong(o, target) for o, target in pairs])

    before, found = told(panel.clean_probabilities), told(panel.adv_probabilities)
    for group in results.groups:
        for model in group.models:
            cell = model.attacks.get(panel.attack) if model.name == panel.model else None
            if cell is None:
                continue
            row = np.flatnonzero(np.abs(cell.eps - panel.eps) < 1e-9)
            place = np.searchsorted(group.ids, panel.example_id)
            place = np.minimum(place, group.ids.size - 1)
            here = group.ids[place] == panel.example_id
            before = np.where(here, cell.wrong[place], before)
            if row.size:
                found = np.where(here, cell.success[row[0], place], found)
    return before, found


def _wrong(probabilities: Array, target: Array) -> bool:
    """Whether an output is wrong: another class, or a known finding on the wrong side of 1/2."""
    if not np.isfinite(probabilities).all():
        return True
    if target.ndim == 0:
        return bool(probabilities.argmax() != target)
    if target.ndim == 2:
        return bool(_masks.figures(probabilities[None])["dice"][0] < 0.5)
    return bool((((probabilities > 0.5) != (target > 0)) & (target >= 0)).any())


def _truth(target: Array, names: tuple[str, ...]) -> str:
    """Write the true label, or the findings."""
    if target.ndim == 0:
        return names[int(target)]
    if target.ndim == 2:
        held = [name for k, name in enumerate(names) if k and (target == k).any()]
        return ", ".join(held) or "nothing but background"
    present = [name for name, flag in zip(names, target, strict=True) if flag > 0]
    return ", ".join(present) or "no finding"


def _said(probabilities: Array, target: Array, names: tuple[str, ...]) -> str:
    """Write what a model says: the class and its probability, or the findings and confidence."""
    if not np.isfinite(probabilities).all():
        return "not a number"
    if target.ndim == 0:
        best = int(probabilities.argmax())
        return f"{names[best]}, {percent(float(probabilities[best]))}"
    if target.ndim == 2:
        return f"Dice {number(float(_masks.figures(probabilities[None])['dice'][0]))}"
    found = [
        f"{name} {percent(float(p))}"
        for name, p in zip(names, probabilities, strict=True)
        if p > 0.5
    ]
    sure = float(metrics.confidence(probabilities[None], multi_label=True)[0])
    return f"{', '.join(found) or 'no finding'} (mean confidence {percent(sure)})"
