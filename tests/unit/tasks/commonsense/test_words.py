"""Made-up names, and a tokenizer of words."""

import re

import numpy as np

from rpg.tasks.commonsense.questions import ANSWER, PROMPT
from rpg.tasks.commonsense.words import made_up_names, word_tokenizer


def test_names_are_different_and_have_four_letters() -> None:
    names = made_up_names(np.random.default_rng(0), 4900)
    assert len({*names}) == 4900
    assert all(re.fullmatch("([bdfgklmnprstvz][aeiou]){2}", name) for name in names)
    assert made_up_names(np.random.default_rng(0), 3) == names[:3]
    assert made_up_names(np.random.default_rng(1), 3) != names[:3]


def test_tokens_are_words_and_the_phrases_that_all_questions_share() -> None:
    texts = [PROMPT.format(instruction="Please choose: Is it Zavi?\n\nAnswer format: true/false"), f"{ANSWER}answer2"]
    text = word_tokenizer(["Please choose: {}\n\n"], texts)
    lines = [
        "below is an instruction that describes a task. write a response that appropriately completes the request.",
        "### instruction:",
        "### response:",
    ]
    assert text.tokenize(texts[0]) == [
        *lines[:2], "please choose:", "is", "it", "zavi", "?", "answer format: true/false", lines[2]
    ]  # fmt: skip
    assert text.tokenize(texts[1]) == ["the correct answer is", "answer", "2"]
    assert text.decode(text(texts[1])["input_ids"]) == " the correct answer is answer2"
    vocabulary = text.get_vocab()
    assert [vocabulary[name] for name in ("<unk>", "<s>", "</s>", "<pad>")] == [0, 1, 2, 3]
    known = sorted(vocabulary, key=vocabulary.__getitem__)[4:]
    assert known == sorted(known)
    # The instruction's start, the answer's start, the names of the choices, and: is, it, zavi, "?", answer, 2.
    assert len(known) == len(lines) + 9
    assert text("unread")["input_ids"] == [text.unk_token_id]
    assert text.padding_side == "left"
