"""Accuracy of each model under the images that an attack made for each other: a matrix."""

from advjax.report import _format
from advjax.report._statistics import Series, Statistics
from advjax.report._tables import Entry, Row, Table, share_entry

# in names of attacks: what made the images stands before it, for which model behind it
ARROW = "<-"


def tables(found: Statistics, norm: str) -> list[Table]:
    """Return a table for every attack of the norm whose images were judged by other models.

    Rows are the model that images were made for, and the budget; columns the model that judges.
    Where both are the same, that is the attack itself. Empty without such rows.
    """
    curves = found.decisions if found.multi else found.series
    by_name = {(s.model, s.attack): s for s in curves if s.norm == norm and not s.combined}
    pairs = [attack.split(ARROW, 1) for _, attack in by_name if ARROW in attack]
    models = [model.name for model in found.group.models]
    made = []
    for attack in dict.fromkeys(name for name, _ in pairs):
        makers = {maker for name, maker in pairs if name == attack}
        rows = [
            Row(
                maker,
                _format.budget(float(eps), norm),
                [_entry(by_name, target, attack, maker, float(eps)) for target in models],
            )
            for maker in models
            if maker in makers
            for eps in found.chosen[norm]
        ]
        share = "decisions" if found.multi else "images"
        note = (
            f"Share of all {share} that stay right, each budget alone. Lines: the model that the "
            "images were made for. Columns: the model that judges them; on its own images that is "
            "the attack itself, on those of others an attacker who has never seen it."
        )
        title = f"Transfer of {attack}"
        made.append(Table("transfer", title, note, models, rows, True, "Budget"))
    return made


def _entry(
    by_name: dict[tuple[str, str], Series], target: str, attack: str, maker: str, eps: float
) -> Entry:
    """Return the accuracy of a model under the images made for another, or for itself."""
    label = attack if target == maker else f"{attack}{ARROW}{maker}"
    series = by_name.get((target, label))
    if series is not None:
        for index, value in enumerate(series.eps):
            if abs(float(value) - eps) < 1e-9:
                return share_entry(series.alone, index, eps)
    return Entry(_format.MISSING, eps=eps)
