"""A changed `features.sql`: the whole table is built by the new one, with the next facts or without any."""

from collections.abc import Callable

from ml_core.data import FeatureStore
from tests.data.conftest import FEATURES, arrived, at, ordered


def test_the_table_is_built_anew_when_its_definition_changed(make_store: Callable[..., FeatureStore]) -> None:
    """Otherwise rows of two definitions would stand in one table, or the store would stop at the first new column."""
    store = make_store()
    store.log.append("ordered", ordered(("a", "x", 0, 0), ("b", "x", 9, 9)), through=at(10))
    store.log.append("arrived", arrived(("a", "x", 5, 4)), through=at(10))
    store.absorb()
    examples = store.examples(0, 1).select(["key", "label", "labelled_at"]).to_pylist()
    file = store._features
    file.write_text(FEATURES.replace("o.shop,", "o.shop, upper(o.shop) as loud,"), encoding="utf-8")
    store.absorb()
    assert store.schema() == {"shop": "string", "loud": "string", "recent_days": "float"}
    assert [row["loud"] for row in store.feature_rows(at(0), at(99)).to_pylist()] == ["X", "X"]
    assert store.examples(0, 1).select(["key", "label", "labelled_at"]).to_pylist() == examples

    grown = store.feature_rows(at(0), at(99))
    store.absorb()
    store.rebuild()
    assert store.feature_rows(at(0), at(99)).equals(grown)
