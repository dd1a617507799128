"""Tables from files, from scikit-learn, and from files as scikit-learn's loaders keep them: targets, splits and encodings."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from urllib.error import URLError

import joblib
import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer, StandardScaler

from late_phase.data import load
from late_phase.data.table_encoding import TableEncoding
from late_phase.data.tables import Rows, Split, Table, target_of
from late_phase.support.errors import UserError

RANDOM = np.random.default_rng(0)


def table_of(rows: int, regression: bool = True) -> Table:
    """Two numbers, one of them with missing ones, and a category."""
    size = np.where(RANDOM.random(rows) < 0.1, np.nan, RANDOM.lognormal(size=rows))
    colour = RANDOM.choice(np.array(["red", "green", ""], dtype=object), rows)
    weight = RANDOM.standard_normal(rows)
    targets = 7 + 3 * weight if regression else (weight > 0).astype(np.int64)
    columns = {"size": size, "colour": colour, "weight": weight}
    return Table("things", "price", None if regression else ("low", "high"), Rows(columns, targets))


def split_of(rows: int = 1000, regression: bool = True) -> Split:
    return table_of(rows, regression).split(0.16, 0.2, None, None, 0)


# Splits.


def test_a_split_has_each_row_once_in_the_published_shares():
    whole = table_of(1000)
    split = whole.split(0.16, 0.2, None, None, 3)
    assert [len(part) for part in split.parts().values()] == [640, 200, 160]
    parts = np.concatenate([part.targets for part in split.parts().values()])
    np.testing.assert_array_equal(np.sort(parts), np.sort(whole.rows.targets))
    weights = np.concatenate([part.columns["weight"] for part in split.parts().values()])
    np.testing.assert_allclose(7 + 3 * weights, parts)  # rows stay whole
    again, other = (whole.split(0.16, 0.2, None, None, seed).test.targets for seed in (3, 4))
    assert np.array_equal(split.test.targets, again) and not np.array_equal(again, other)
    fewer = whole.split(0.16, 0.2, 100, 50, 3)
    assert [len(part) for part in fewer.parts().values()] == [100, 50, 50]
    assert np.array_equal(fewer.train.targets, split.train.targets[:100])
    assert whole.split(0, 0.2, None, None, 3).validation is None


def test_parts_with_files_of_their_own(tmp_path):
    for name, first in (("train", 0), ("validation", 10), ("test", 20)):
        lines = [f"{x},{x % 3},{2 * x + 0.5}" for x in range(first, first + 10)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,noise,y", *lines]))
    files = {"path": "train", "validation_path": "validation", "test_path": "test"}
    paths = {key: str(tmp_path / f"{name}.csv") for key, name in files.items()}
    split = load("table_file", target="y", ignore=["noise"], **paths).split(0.16, 0.2, None, None, 0)
    assert {part: sorted(rows.columns["x"]) for part, rows in split.parts().items()} == {
        part: list(range(first, first + 10)) for part, first in (("train", 0), ("validation", 10), ("test", 20))
    }
    assert list(split.train.columns) == ["x"]
    del paths["validation_path"]
    split = load("table_file", target="y", **paths).split(0.2, 0.9, None, None, 0)
    assert [len(split.parts()[part]) for part in ("train", "validation", "test")] == [8, 2, 10]
    (tmp_path / "test.csv").write_text("x,y\n1,2\n")
    with pytest.raises(
        UserError, match=r"^dataset\.path needs a column 'noise', which dataset\.test_path=.* lacks: it has x, y\.$"
    ):
        load("table_file", target="y", **paths)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.16, 0.2, 700, None, 0), r"^dataset\.subset=700 is out of range for things: choose from 1 to 640\."),
        ((0.16, 0.2, None, 161, 0), r"^dataset\.test_subset=161 is out of range for things: choose from 1 to 160\."),
        ((0.0, 0.0001, None, None, 0), r"^the 1000 rows of things leave none for the test part"),
    ],
)
def test_a_part_without_rows_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        table_of(1000).split(*arguments)


def test_a_class_that_training_would_not_see_is_refused():
    table = Table("things", "kind", ("a", "b"), Rows({"x": np.arange(10.0)}, np.array([0] * 9 + [1])))
    refused = 0
    for seed in range(20):
        try:
            assert 1 in table.split(0.2, 0.2, None, None, seed).train.targets
        except UserError as error:
            assert str(error).startswith("class 'b' of kind has no training row in things: ")
            refused += 1
    assert 0 < refused < 20


def test_the_checksum_tells_tables_apart():
    whole = table_of(50)
    assert whole.sha256() == Table("other name", "price", None, whole.rows).sha256()
    for change in ({"colour": np.roll(whole.rows.columns["colour"], 1)}, {"weight": -whole.rows.columns["weight"]}):
        assert Table("things", "price", None, Rows(whole.rows.columns | change, whole.rows.targets)).sha256() != whole.sha256()


# Targets.


@pytest.mark.parametrize(
    ("cells", "objective", "classes"),
    [
        (["1.5", "2", "3"], "auto", None),
        ([str(i) for i in range(21)], "auto", None),
        ([str(i) for i in range(20)], "auto", tuple(map(str, range(20)))),
        (["1", "0", "1"], "regression", None),
        (["10", "9", "10"], "auto", ("9", "10")),
        (["b", "a", "b"], "auto", ("a", "b")),
        (["1.5", "x", "1.5"], "classification", ("1.5", "x")),
    ],
)
def test_the_target_tells_regression_from_classification(cells, objective, classes):
    found, targets = target_of("y", cells, objective, "FILE")
    assert found == classes
    if classes is None:
        assert targets.tolist() == [float(cell) for cell in cells]
    else:
        assert [classes[label] for label in targets] == cells


TARGETS = {
    "NaN": (["1.5", "", "2"], "auto", r"column 'y', the target, of FILE has no value in row 2: remove this row\."),
    "text for a regression": (["a", "b"], "regression", r"has texts such as 'a': choose dataset\.objective=classification\."),
    "text among numbers": (["1", "b"], "auto", r"has 1 numbers and 'b' in row 2: correct it, or choose dataset\.objective="),
    "one class": (["a", "a"], "auto", r"the target, of FILE is always 'a': choose another dataset\.target\."),
    "a constant": (["2.5", "2.5"], "regression", r"the target, of FILE is always 2\.5: choose another dataset\.target\."),
}


@pytest.mark.parametrize("mistake", TARGETS)
def test_a_target_that_can_not_be_learnt_is_refused(mistake):
    cells, objective, pattern = TARGETS[mistake]
    with pytest.raises(UserError, match=pattern):
        target_of("y", cells, objective, "FILE")


def test_a_file_without_the_target_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(UserError, match=r"^dataset\.target needs a column 'price', which dataset\.path=.* lacks: it has a, b\.$"):
        load("table_file", path=str(tmp_path / "t.csv"), target="price")
    with pytest.raises(UserError, match=r"^dataset\.ignore needs a column 'id', which dataset\.path=.* lacks: it has a, b\.$"):
        load("table_file", path=str(tmp_path / "t.csv"), target="a", ignore=["id"])


# Encodings, against scikit-learn's own pipeline.


@pytest.mark.parametrize("scaling", ["quantile", "standard"])
def test_the_encoding_is_that_of_a_scikit_learn_pipeline(scaling):
    split = split_of(3000)
    encoding = TableEncoding.of(split, scaling, "refuse")
    quantiles = len(split.train) // 30
    scale = {
        "quantile": QuantileTransformer(n_quantiles=quantiles, output_distribution="normal", subsample=None),
        "standard": StandardScaler(),
    }[scaling]
    numbers = make_pipeline(scale, SimpleImputer(strategy="constant", fill_value=0.0, add_indicator=True))
    reference = ColumnTransformer([("numbers", numbers, [0, 1]), ("categories", OneHotEncoder(sparse_output=False), [2])])

    def frame(rows: Rows) -> np.ndarray:
        return np.stack([rows.columns[name].astype(object) for name in ("size", "weight", "colour")], 1)

    reference.fit(frame(split.train))
    for encoder in (encoding, TableEncoding.from_json(encoding.to_json())):
        for part, rows in split.parts().items():
            inputs, targets = encoder.encode(rows, part)
            expected = reference.transform(frame(rows)).astype(np.float32)
            assert inputs.dtype == torch.float32 and inputs.shape == (len(rows), encoding.inputs) == (len(rows), 6)
            np.testing.assert_allclose(inputs, expected, atol=1e-6)
            mean, std = split.train.targets.mean(), split.train.targets.std()
            np.testing.assert_allclose(targets, (rows.targets - mean) / std, rtol=1e-5, atol=1e-5)
    assert TableEncoding.from_json(encoding.to_json()) == encoding
    assert (encoding.outputs, encoding.missing, encoding.categories) == (1, ["size"], {"colour": ["", "green", "red"]})


def test_only_training_rows_decide():
    split = split_of()
    changed = {name: column[::-1] * 2 if column.dtype != object else column for name, column in split.test.columns.items()}
    other = Split(split.name, split.target, None, split.train, None, Rows(changed, -split.test.targets), "")
    assert TableEncoding.of(split, "quantile", "refuse") == TableEncoding.of(other, "quantile", "refuse")


def test_a_table_of_categories_alone():
    colours = np.array(["red", "green"] * 20, dtype=object)
    rows = Rows({"colour": colours}, np.arange(40.0))
    encoding = TableEncoding.of(Split("t", "y", None, rows, None, rows, ""), "quantile", "refuse")
    assert encoding.inputs == 2 and encoding(rows.columns).tolist() == [[0, 1], [1, 0]] * 20


def test_labels_stay_labels():
    split = split_of(regression=False)
    encoding = TableEncoding.of(split, "standard", "refuse")
    assert encoding.encode(split.test, "x")[1].tolist() == split.test.targets.tolist() and encoding.outputs == 2


def test_unseen_categories_are_refused_or_zeros():
    split = split_of()
    columns = split.test.columns | {"colour": np.array(["blue", *split.test.columns["colour"][1:]], dtype=object)}
    refusing, zeros = (TableEncoding.of(split, "quantile", unseen) for unseen in ("refuse", "zeros"))
    with pytest.raises(UserError, match=r"^column 'colour' of the test part has the category 'blue', which no training row has: "):
        refusing(columns, "the test part")
    inputs = zeros(columns)
    assert inputs[0, -3:].tolist() == [0, 0, 0] and torch.equal(inputs[1:, -3:].sum(1), torch.ones(len(inputs) - 1))
    assert torch.equal(inputs[1:], refusing(split.test.columns)[1:])


def test_constant_columns_are_left_out_and_told(capsys):
    split = split_of()
    columns = split.train.columns | {"one": np.ones(len(split.train)), "same": np.full(len(split.train), "x", dtype=object)}
    other = Split("things", "price", None, Rows(columns, split.train.targets), None, split.test, "")
    encoding = TableEncoding.of(other, "quantile", "refuse")
    assert encoding == TableEncoding.of(split, "quantile", "refuse")
    assert capsys.readouterr().err == "things: left out, as they are constant in the training rows: one, same.\n"
    only = Split("things", "price", None, Rows({"one": columns["one"]}, split.train.targets), None, split.test, "")
    with pytest.raises(UserError, match=r"^all columns of things but the target are constant in its training rows: add others\.$"):
        TableEncoding.of(only, "quantile", "refuse")


def test_names_of_rows_are_no_categories():
    names = np.array([f"row {i}" for i in range(3000)], dtype=object)
    rows = Rows({"id": names, "x": np.arange(3000.0)}, np.arange(3000.0))
    with pytest.raises(
        UserError, match=r"^column 'id' of t has 3000 categories in 3000 training rows: name it in dataset\.ignore\.$"
    ):
        TableEncoding.of(Split("t", "y", None, rows, None, rows, ""), "quantile", "refuse")


def test_columns_that_a_model_does_not_know_are_refused():
    encoding, columns = TableEncoding.of(split_of(), "quantile", "refuse"), split_of().test.columns
    without = {name: column for name, column in columns.items() if name != "size"}
    with pytest.raises(UserError, match=r"^the table lacks the column 'size' that the model knows: it has colour, weight\.$"):
        encoding(without)
    with pytest.raises(UserError, match=r"^column 'size' of the table has texts where the model knows numbers"):
        encoding(columns | {"size": columns["colour"]})
    with pytest.raises(UserError, match=r"^column 'colour' of the table has numbers where the model knows categories"):
        encoding(columns | {"colour": columns["size"]})
    assert torch.equal(encoding(columns | {"more": columns["size"]}), encoding(columns))


# Sources.


def test_embedded_tables_are_scikit_learns():
    cancer, diabetes = load("breast_cancer"), load("diabetes")
    assert (len(cancer.rows), cancer.classes, len(cancer.rows.columns)) == (569, ("malignant", "benign"), 30)
    np.testing.assert_array_equal(cancer.rows.targets, datasets.load_breast_cancer().target)
    np.testing.assert_array_equal(cancer.rows.columns["mean radius"], datasets.load_breast_cancer().data[:, 0])
    assert (len(diabetes.rows), diabetes.classes, len(diabetes.rows.columns)) == (442, None, 10)
    np.testing.assert_array_equal(diabetes.rows.targets, datasets.load_diabetes().target)
    assert diabetes.in_words() == "442 rows, 10 columns, a regression of target"
    assert cancer.in_words() == "569 rows, 30 columns, 2 classes of class"


def test_california_housing_as_scikit_learn_keeps_it(tmp_path):
    """The file of its loader has the columns of the original archive, from which the loader makes means per household."""
    raw = np.column_stack([RANDOM.uniform(1, 9, (50, 1)), RANDOM.integers(1, 900, (50, 5)), RANDOM.uniform(-124, 41, (50, 2))])
    raw = np.column_stack([RANDOM.uniform(1e4, 5e5, 50), raw])  # the loader's order: the target first
    joblib.dump(raw, tmp_path / "cal_housing_py3.pkz", compress=6)
    table = load("california_housing", root=str(tmp_path))
    bunch = datasets.fetch_california_housing(data_home=tmp_path, download_if_missing=False)
    assert list(table.rows.columns) == bunch.feature_names and table.target == "MedHouseVal" and table.classes is None
    np.testing.assert_array_equal(np.stack(list(table.rows.columns.values()), 1), bunch.data)
    np.testing.assert_array_equal(table.rows.targets, bunch.target)


ARFF = """@RELATION t
@ATTRIBUTE size REAL
@ATTRIBUTE colour {red,green}
@ATTRIBUTE y {no,yes}
@DATA
1.5,red,no
?,green,yes
2,?,no
"""


def openml(root: Path) -> None:
    """OpenML's answers, in the files in which scikit-learn keeps them."""
    features = [("size", "numeric", "false"), ("colour", "nominal", "false"), ("y", "nominal", "true")]
    answers = {
        "api/v1/json/data/61": {
            "data_set_description": {
                "id": "61",
                "name": "things",
                "version": "1",
                "format": "ARFF",
                "file_id": "9",
                "status": "active",
                "description": "Three things.",
                "default_target_attribute": "y",
                "url": "https://api.openml.org/data/v1/download/9/things.arff",
                "md5_checksum": hashlib.md5(ARFF.encode(), usedforsecurity=False).hexdigest(),
            }
        },
        "api/v1/json/data/features/61": {
            "data_features": {
                "feature": [
                    {
                        "index": str(i),
                        "name": name,
                        "data_type": kind,
                        "is_target": target,
                        "is_ignore": "false",
                        "is_row_identifier": "false",
                        "number_of_missing_values": str(int(name != "y")),
                    }
                    for i, (name, kind, target) in enumerate(features)
                ]
            }
        },
        "api/v1/json/data/qualities/61": {"data_qualities": {"quality": [{"name": "NumberOfInstances", "value": "3"}]}},
    }
    for path, answer in answers.items():
        put(root, path, json.dumps(answer).encode())
    put(root, "data/v1/download/9/things.arff", ARFF.encode())


def put(root: Path, path: str, content: bytes) -> None:
    file = root / "openml" / "openml.org" / f"{path}.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(content))


def test_openml_as_scikit_learn_keeps_it(tmp_path):
    openml(tmp_path)
    table = load("openml", root=str(tmp_path), data_id=61)
    assert (table.name, table.target, table.classes) == ("things", "y", ("no", "yes"))
    assert table.rows.targets.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(table.rows.columns["size"], [1.5, np.nan, 2])
    assert table.rows.columns["colour"].tolist() == ["red", "green", ""]
    with pytest.raises(UserError, match=r"^dataset\.data_id=61 can't be used \(Target column 'colour' has 1 missing values\."):
        load("openml", root=str(tmp_path), data_id=61, target="colour")


@pytest.mark.filterwarnings("ignore:.*etry.*", "ignore:.*network error.*")
@pytest.mark.parametrize(("name", "options"), [("california_housing", {}), ("openml", {"data_id": 61})])
def test_without_a_network_a_message_says_what_is_missing(name, options, tmp_path, monkeypatch):
    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("sklearn.datasets._base.urlretrieve", offline)
    monkeypatch.setattr("sklearn.datasets._openml.urlopen", offline)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(
        UserError, match=r"^dataset\.root=.* lacks .*, and scikit-learn can't download it \(.*no network.*\): run this"
    ):
        load(name, root=str(tmp_path), **options)
