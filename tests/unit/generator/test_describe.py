import math
from itertools import product
from pathlib import Path

import pytest
import torch

from rpg.data import CLASSES
from rpg.generator.describe import LEXICON, PROMPT, class_scores, describe, likeliest
from rpg.utils import task_codes
from rpg.utils.errors import UserError


@pytest.mark.parametrize(
    ("sentence", "classes"),
    [
        ("even numbers", {0, 2, 4, 6, 8}),
        ("Odd numbers, please", {1, 3, 5, 7, 9}),
        ("three and eight", {3, 8}),
        ("3, 8", {3, 8}),
        ("threes or eights", {3, 8}),
        ("small even numbers", {0, 2, 4}),
        ("odd primes", {3, 5, 7}),
        ("odd numbers except 3", {1, 5, 7, 9}),
        ("everything but zero and one", {2, 3, 4, 5, 6, 7, 8, 9}),
        ("not even", {1, 3, 5, 7, 9}),
        ("numbers other than 3", {0, 1, 2, 4, 5, 6, 7, 8, 9}),
        ("even numbers apart from zero", {2, 4, 6, 8}),
        ("not even but prime", {3, 5, 7}),
        ("numbers greater than five", {6, 7, 8, 9}),
        ("less than 3 or at least 8", {0, 1, 2, 8, 9}),
        ("from 3 to 6", {3, 4, 5, 6}),
        ("multiples of three", {0, 3, 6, 9}),
        ("squares", {0, 1, 4, 9}),
    ],
)
def test_sentences_about_digits(sentence: str, classes: set[int]) -> None:
    assert describe(sentence, "digits") == task_codes.of_classes(classes)


@pytest.mark.parametrize(
    ("sentence", "names"),
    [
        ("all living things", {"bird", "cat", "deer", "dog", "frog", "horse"}),
        ("cats and dogs", {"cat", "dog"}),
        ("animals that can fly", {"bird"}),
        ("flying things", {"airplane", "bird"}),
        ("vehicles on the road", {"automobile", "truck"}),
        ("pets, not dogs", {"cat"}),
        ("mammals without horses", {"cat", "deer", "dog"}),
        ("ponies", {"horse"}),
    ],
)
def test_sentences_about_cifar10(sentence: str, names: set[str]) -> None:
    wanted = {CLASSES["cifar10"].index(name) for name in names}
    assert describe(sentence, "cifar10") == task_codes.of_classes(wanted)


@pytest.mark.parametrize("data", LEXICON)
def test_every_class_and_word_of_the_lexicon_is_a_valid_task(data: str) -> None:
    for index, name in enumerate(CLASSES[data]):
        assert describe(name, data) == task_codes.of_classes([index])
    for word, classes in LEXICON[data].items():
        assert describe(word, data) == task_codes.of_classes(classes)


def test_unknown_word_lists_what_is_known() -> None:
    with pytest.raises(
        UserError, match=r"'zebra' is not known for cifar10; it knows: airplane, .*living thing"
    ) as error:
        describe("cats and zebra", "cifar10")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sentence", "fault"),
    [
        ("even odd", "no class"),
        ("everything", "every class"),
        ("even or odd", "every class"),
        ("3 except 3", "no class"),
    ],
)
def test_sentence_that_matches_nothing_or_everything(sentence: str, fault: str) -> None:
    with pytest.raises(UserError, match=f"matches {fault}"):
        describe(sentence, "digits")


def test_empty_sentence() -> None:
    with pytest.raises(UserError, match="empty"):
        describe("  ", "digits")


def test_likeliest_code_is_the_best_of_all_valid_ones() -> None:
    """Against every code, with log p(bit) = -log(1 + e^∓score) added up."""
    draw = torch.Generator().manual_seed(0)
    valid = [code for code in map("".join, product("01", repeat=10)) if task_codes.valid(code)]
    for shift in (0.0, 4.0, -4.0):
        scores = (torch.randn(10, generator=draw) + shift).tolist()

        def log_probability(code: str, scores: list[float] = scores) -> float:
            return sum(
                -math.log1p(math.exp(-score if bit == "1" else score)) for bit, score in zip(code, scores, strict=True)
            )

        assert likeliest(scores) == max(valid, key=log_probability)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama that has learned, in two seconds, which digits are even."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    texts = [(PROMPT.format(sentence="even numbers", name=digit), "no" if digit % 2 else "yes") for digit in range(10)]
    pieces = pre_tokenizers.Whitespace()
    words = sorted({word for text, answer in texts for word, _ in pieces.pre_tokenize_str(f"{text} {answer}")})
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(["?", *words])}, unk_token="?"))
    raw.pre_tokenizer = pieces
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="?")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(words) + 1, max_position_embeddings=128, initializer_range=0.3, **sizes)
    )
    inputs = tokenizer([text for text, _ in texts], return_tensors="pt").input_ids
    answers = torch.tensor([tokenizer.convert_tokens_to_ids(answer) for _, answer in texts])
    optimizer = torch.optim.AdamW(model.parameters(), 0.003)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(model(input_ids=inputs).logits[:, -1], answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


def test_language_model_answers(language_model: Path) -> None:
    assert describe("even numbers", "digits", language_model) == "1010101010"


def test_language_model_s_scores_are_log_odds(language_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(language_model)
    model = AutoModelForCausalLM.from_pretrained(language_model).eval()
    (score,) = class_scores(language_model, "even numbers", ["4"])
    ids = tokenizer(PROMPT.format(sentence="even numbers", name="4"), return_tensors="pt").input_ids
    p = model(input_ids=ids).logits[0, -1].softmax(0)
    yes, no = (p[tokenizer.convert_tokens_to_ids(word)].item() for word in ("yes", "no"))
    assert score == pytest.approx(math.log(yes / no), abs=1e-3)


def test_any_sentence_gives_a_valid_code(language_model: Path) -> None:
    assert task_codes.valid(describe("something else altogether", "digits", language_model))


def test_folder_without_a_language_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no Hugging Face model"):
        describe("even numbers", "digits", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded"):
        describe("even numbers", "digits", tmp_path)
