"""Words of the worlds of facts: made-up names, and a tokenizer of words for the language model."""

import re
from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np

from rpg.tasks.commonsense.questions import ANSWER, PROMPT


def made_up_names(draw: np.random.Generator, count: int) -> list[str]:
    """Return `count` different names of four letters, such as "zavi", in random order. There are 4900 names."""
    syllables = ["".join(pair) for pair in product("bdfgklmnprstvz", "aeiou")]
    names = [first + second for first, second in product(syllables, syllables)]
    return [str(name) for name in draw.permutation(names)[:count]]


def word_tokenizer(instructions: Iterable[str], texts: Iterable[str]) -> Any:
    """Return a tokenizer of the words of `texts` in lower case.

    `instructions` are templates of instructions. Each phrase that all questions share is one token: a line of the
    prompt, the start of an instruction's template up to its field, the start of an answer.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse, Replace, Sequence
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    shared = [line.strip() for line in PROMPT.splitlines() if line.strip() and "{" not in line]
    shared += [instruction.partition(" {}")[0] for instruction in instructions] + [ANSWER.strip()]
    phrases = [re.escape(phrase.lower()) for phrase in dict.fromkeys(shared)]
    words = Regex("|".join([*phrases, r"answer format: \S+", r"[a-z]+", r"\d", r"[^\w\s:]"]))
    splitter = Split(words, "removed", invert=True)
    known = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text.lower())})
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    vocabulary = {word: index for index, word in enumerate([*special.values(), *known])}
    words_to_tokens = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words_to_tokens.normalizer, words_to_tokens.pre_tokenizer = Lowercase(), splitter
    # The word answer2 is two tokens, answer and 2.
    words_to_tokens.decoder = Sequence([Replace(Regex("^(?=[a-z])"), " "), Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=words_to_tokens, padding_side="left", **special)
