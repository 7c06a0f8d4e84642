"""Normalised answers and the soft accuracy, beyond the reference cases."""

import itertools

import pytest

from radio_eval.scores.vqa import m4c_normalise, soft_accuracy, vqa_accuracy, vqa_normalise


def test_soft_accuracy_is_the_mean_over_leave_one_out_subsets() -> None:
    for answers in itertools.product("ab", repeat=6):
        subsets = [answers[:n] + answers[n + 1 :] for n in range(len(answers))]
        expected = sum(min(subset.count("a") / 3, 1.0) for subset in subsets) / len(subsets)
        assert soft_accuracy("a", answers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_soft_accuracy_of_ten(matches: int, accuracy: float) -> None:
    answers = ["x"] * matches + ["y"] * (10 - matches)
    assert soft_accuracy("x", answers) == pytest.approx(accuracy)


def test_official_evaluator_normalises_only_where_people_differ() -> None:
    assert vqa_accuracy("Yes", ["yes"] * 10) == 0.0
    assert vqa_accuracy(" yes\n", ["yes"] * 10) == 1.0
    assert vqa_accuracy("Yes", ["yes"] * 9 + ["no"]) == 1.0
    assert vqa_accuracy("The cat.", ["a cat"] * 9 + ["dog"]) == 1.0


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("ow's'at", "'ow's'at"),
        ("twas", "'twas"),
        ("somebody'd", "somebodyd"),  # the evaluators' table has it this way round
        ("somebodyd've", "somebody'd've"),
        ("id've", "id've"),  # its entries with a capital I never match
    ],
)
def test_contractions(answer: str, normalised: str) -> None:
    assert vqa_normalise(answer) == normalised


def test_at_most_32_full_stops_go() -> None:
    assert vqa_normalise("x" + "." * 40) == "x" + "." * 8


def test_only_m4c_sets_the_s_apart_and_joins_at_commas() -> None:
    assert (vqa_normalise("it's"), m4c_normalise("it's")) == ("it's", "it 's")
    assert (vqa_normalise("yes,no"), m4c_normalise("yes,no")) == ("yes no", "yesno")
