"""Results on disk: rows as Parquet, panels of images as npz, and a manifest that explains them.

    FOLDER/rows/part-*.parquet    one row per (model, data, attack, example, eps, restart)
    FOLDER/panels/*.npz           images to look at
    FOLDER/trained/*.npz          perturbations and generators that an evaluation trained
    FOLDER/manifest.json          config, hashes of the inputs, versions, revision, parts

`pandas.read_parquet(FOLDER + "/rows")` reads all rows. The manifest lies outside of `rows/`
because every file in there would be taken for a part.
"""

from advjax.store._files import file_name, write_atomic
from advjax.store._fingerprint import fingerprint
from advjax.store._merge import check_shards, merge_shards, missing_shards
from advjax.store._panels import Panel, read_panels, write_panel
from advjax.store._schema import SCHEMA
from advjax.store._store import Store

__all__ = [
    "SCHEMA",
    "Panel",
    "Store",
    "check_shards",
    "file_name",
    "fingerprint",
    "merge_shards",
    "missing_shards",
    "read_panels",
    "write_atomic",
    "write_panel",
]
