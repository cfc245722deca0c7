"""Published datasets: how to obtain each, and `tfds` builders that prepare them.

    recipe = builders.find("kvasir_seg")
    builders.prepare(recipe, Path("downloads/kvasir"), size=256)
    dataset = data.load(DataConfig(source="tfds:kvasir_seg"))

One file a dataset. What is not ours to give away, a person downloads; `recipe.read_page()` says
where.
"""

from advjax.data.builders import (
    aptos2019,
    chestxray14,
    covid19_radiography,
    covid_ct,
    ead2019,
    ham10000,
    isic2016,
    isic2017,
    kvasir_seg,
    medmnist,
    messidor,
)
from advjax.data.builders._prepare import builder_class, data_dirs, prepare
from advjax.data.builders._recipe import Recipe, Record

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        aptos2019.RECIPE,
        chestxray14.RECIPE,
        covid19_radiography.RECIPE,
        covid_ct.RECIPE,
        ead2019.RECIPE,
        ham10000.RECIPE,
        isic2016.RECIPE,
        isic2017.RECIPE,
        kvasir_seg.RECIPE,
        messidor.RECIPE,
        *medmnist.RECIPES,
    )
}


def find(name: str) -> Recipe:
    """Return a dataset by name, as it is here or as it is published (`APTOS-2019`, `Kvasir-SEG`).

    Raises:
      ValueError: there is no such dataset.
    """
    if name in RECIPES:
        return RECIPES[name]
    for known, recipe in RECIPES.items():
        if _plain(known) == _plain(name):
            return recipe
    raise ValueError(f"unknown dataset {name!r}; known: {', '.join(RECIPES)}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


__all__ = ["RECIPES", "Recipe", "Record", "builder_class", "data_dirs", "find", "prepare"]
