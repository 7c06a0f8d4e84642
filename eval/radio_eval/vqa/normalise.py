"""Answers brought to one form before they are compared, as VQAv2 and TextVQA do it.

Both processors change an answer in the same three steps; TextVQA's ("m4c") first lowers the case,
drops commas and question marks and sets "'s" apart, so that "it's" becomes "it 's" and "yes,no"
becomes "yesno".
"""

import re
from collections.abc import Iterator, Sequence

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32  # the evaluators pass re.UNICODE, which is 32, where the count belongs
_COMMA_IN_NUMBER = re.compile(r"\d,\d")

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}

_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll
    you're you've
"""
_WITHOUT_APOSTROPHE = {
    "somebody'd": "somebodyd"
}  # the evaluators have this one the wrong way round


def _one_apostrophe_less(word: str) -> Iterator[str]:
    """The word without its first, its second, ... apostrophe."""
    for place, character in enumerate(word):
        if character == "'":
            yield word[:place] + word[place + 1 :]


_SPELLING = {
    **{short: word for word in _CONTRACTIONS.split() for short in _one_apostrophe_less(word)},
    **_WITHOUT_APOSTROPHE,
}


def one_line(answer: str) -> str:
    """The answer with blanks for tabs and line ends, and none around it: VQAv2's first step."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def vqa_normalise(answer: str) -> str:
    """An answer as the official VQAv2 evaluator normalises it ("The cat." -> "cat")."""
    return _words(_without_punctuation(one_line(answer)))


def m4c_normalise(answer: str) -> str:
    """An answer as TextVQA's evaluator normalises it, and LLaVA before it uploads to VQAv2."""
    lowered = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return vqa_normalise(lowered)


def soft_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """How far people agree with a prediction: 3 of 10 give 0.9, 2 give 0.6, 1 gives 0.3.

    Each answer is left out once; the prediction then scores min(matches among the others / 3, 1),
    and these scores are averaged.

    Args:
        prediction: compared as it is.
        answers: at least one, compared as they are.

    Returns:
        A number in [0, 1].
    """
    matches = sum(answer == prediction for answer in answers)
    match_left_out = matches * min((matches - 1) / 3, 1.0)
    other_left_out = (len(answers) - matches) * min(matches / 3, 1.0)
    return (match_left_out + other_left_out) / len(answers)


def _without_punctuation(text: str) -> str:
    """Marks go where a blank is beside one of their kind or a number has a comma; else a blank."""
    number = _COMMA_IN_NUMBER.search(text) is not None
    changed = text
    for mark in _PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        changed = changed.replace(mark, "" if beside_blank or number else " ")
    return _PERIOD.sub("", changed, count=_MAX_PERIODS)


def _words(text: str) -> str:
    """Lower case, digits for number words, no articles, contractions with their apostrophes."""
    numbers = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_SPELLING.get(word, word) for word in numbers if word not in _ARTICLES)
