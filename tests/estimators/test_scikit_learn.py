"""The estimators obey scikit-learn's rules and work inside its tools."""

from __future__ import annotations

import copy
import io
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from fake_model import FakeModel
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import (
    check_do_not_raise_errors_in_init_or_set_params,
    check_estimator_cloneable,
    check_estimator_repr,
    check_estimator_tags_renamed,
    check_get_params_invariance,
    check_mixin_order,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
    check_valid_tag_types,
)

from softprompt.estimators import SoftPromptClassifier, SoftPromptGenerator

# Those of `check_estimator` that do not fit numeric arrays of two dimensions.
CHECKS = [
    check_do_not_raise_errors_in_init_or_set_params,
    check_estimator_cloneable,
    check_estimator_repr,
    check_estimator_tags_renamed,
    check_get_params_invariance,
    check_mixin_order,
    check_no_attributes_set_in_init,
    check_set_params,
    check_valid_tag_types,
]


@pytest.mark.parametrize("estimator", [SoftPromptClassifier, SoftPromptGenerator])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator.__name__, estimator("model"))


def test_the_constructor_only_stores():
    nonsense = object()
    names = SoftPromptClassifier("model").get_params()
    classifier = SoftPromptClassifier(**dict.fromkeys(names, nonsense))
    assert all(value is nonsense for value in classifier.get_params(deep=False).values())


def test_a_model_is_not_copied(make, make_generator, model):
    for estimator in (make(), make_generator()):
        assert clone(estimator).model is model
        assert copy.deepcopy(estimator).model is model


def test_a_clone_is_not_fitted(make, task):
    fitted = make(max_steps=1).fit(*task)
    with pytest.raises(NotFittedError):
        clone(fitted).predict(task[0])


def test_fit_changes_no_parameter_and_no_data(make, task):
    words, y = task
    labels = {"low": "-", "high": "+"}
    init = np.ones((3, 32), np.float32)
    weight = np.ones(len(words))
    classifier = make(labels=labels, init=init, max_steps=2, class_weight={"low": 2})
    before = {name: copy.deepcopy(value) for name, value in classifier.get_params().items()}
    data = (list(words), list(y), weight.copy())
    classifier.fit(words, y, sample_weight=weight)
    np.testing.assert_array_equal(init, np.ones((3, 32)))
    after = classifier.get_params()
    assert {k: v for k, v in after.items() if k != "init"} == {
        k: v for k, v in before.items() if k != "init"
    }
    assert (words, y) == data[:2]
    np.testing.assert_array_equal(weight, data[2])


def test_fitting_again_starts_anew(make, task):
    classifier = make().fit(*task)
    first = classifier.prompt_.embeddings
    np.testing.assert_array_equal(classifier.fit(*task).prompt_.embeddings, first)
    classifier.set_params(num_virtual_tokens=0, examples=2).fit(*task)
    assert classifier.prompt_ is None
    assert classifier.n_iter_ == 0


def test_tags(make, make_generator):
    tags = make().__sklearn_tags__()
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    assert tags.target_tags.required
    assert is_classifier(make())
    assert not is_classifier(make_generator())


def test_pickles_hold_no_weights(make, task):
    words, y = task
    classifier = make(max_steps=5).fit(words, y)
    made = FakeModel.made
    data = pickle.dumps(classifier)
    assert classifier.model_.embeddings.tobytes() not in data
    restored = pickle.loads(data)
    assert FakeModel.made == made + 1  # model and model_ are one
    np.testing.assert_array_equal(restored.predict_proba(words), classifier.predict_proba(words))
    file = io.BytesIO()
    joblib.dump(classifier, file)
    file.seek(0)
    np.testing.assert_array_equal(joblib.load(file).predict(words), classifier.predict(words))


def test_pipeline(make, task):
    words, y = task
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    pipeline = make_pipeline(lower, make())
    shouted = [word.upper() for word in words]
    pipeline.fit(shouted, y)
    assert pipeline.score(shouted, y) == make().fit(words, y).score(words, y)


@pytest.mark.parametrize("kind", ["list", "dicts", "frame", "series", "array"])
def test_cross_validation_of_every_kind_of_rows(make, task, kind):
    words, y = task
    X = {
        "list": words,
        "dicts": [{"word": word} for word in words],
        "frame": pd.DataFrame({"word": words}, index=range(100, 180)),
        "series": pd.Series(words, index=range(100, 180)),
        "array": np.array(words),
    }[kind]
    target = pd.Series(y, index=range(200, 280)) if kind == "frame" else y
    scores = cross_val_score(make(max_steps=20), X, target, cv=2)
    assert scores.min() > 0.6
    assert cross_val_predict(make(max_steps=1), X, target, cv=2).shape == (80,)


def test_other_scores_of_scikit_learn(make, task):
    for scoring in ("roc_auc", "f1_macro", "neg_log_loss"):
        assert np.isfinite(cross_val_score(make(max_steps=5), *task, cv=2, scoring=scoring)).all()


def test_grid_search_in_two_processes(make, task):
    grid = {"num_virtual_tokens": [0, 3], "objective": ["labels", "tokens"]}
    search = GridSearchCV(make(max_steps=10), grid, cv=2, n_jobs=2).fit(*task)
    alone = GridSearchCV(make(max_steps=10), grid, cv=2).fit(*task)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
    )
    assert search.best_estimator_.predict(task[0]).shape == (80,)


def test_generator_in_grid_search(make_generator):
    words = ["abc", "xyz"] * 8
    search = GridSearchCV(make_generator(max_steps=3), {"num_virtual_tokens": [1, 2]}, cv=2)
    search.fit(words, ["+", "-"] * 8)
    assert set(search.best_estimator_.predict(words[:2])) <= set(search.predict(words))


def test_default_construction_needs_a_model_only():
    check_parameters_default_constructible(
        "SoftPromptClassifier", type("C", (SoftPromptClassifier,), {"__init__": _with_model})()
    )


def _with_model(self, model="model"):
    self.model = model
