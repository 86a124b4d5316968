"""The tables of an ablation, from an ablation.json written by hand."""

from rpg.reports.ablation_table import ablation, conclusions
from rpg.reports.artifacts import AblationResult


def summary(mean: float) -> dict:
    return {"mean": mean, "std": 0.5, "interval": [mean - 1, mean + 1], "min": mean - 2, "best": mean + 2, "n": 3}


def variant(name: str, mean: float, **more: object) -> dict:
    both = {"original": summary(99.0), "rpg": summary(mean)}
    of_set = {"validation": both, "test": {**both, "rpg": summary(mean - 3)}, "by_seed": [mean, mean + 1], **more}
    return {"variant": name, "changes": {}, "parameters": 1234, "sets": {"all": of_set}}


def rival(kind: str, mean: float, above: dict) -> dict:
    of_set = {"validation": summary(mean + 1), "test": summary(mean), "by_seed": [mean + 1], "above": above}
    return {"kind": kind, "sets": {"held_out": of_set}}


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_validation_scores_stand_first_and_recounted_ones_last() -> None:
    result = AblationResult.model_validate(
        {"variants": [variant("plain", 90.0), variant("other", 80.0, recounted=summary(85.0))]}
    )
    text = ablation("which", "Which one?", "mini", result)
    assert text.startswith("\n## which, of mini\n\nWhich one?\n\n")
    head, _, plain, other = cells(text)
    assert head == [
        "variant", "RPG parameters", "original mean ± std", "RPG mean ± std", "by seed", "RPG min", "RPG n",
        "RPG mean ± std, test", "BatchNorm recounted",
    ]  # fmt: skip
    assert plain[:8] == [
        "plain", "1,234", "99.00 ± 0.50 [98.00, 100.00]", "90.00 ± 0.50 [89.00, 91.00]", "90.00, 91.00", "88.00", "3",
        "87.00 ± 0.50 [86.00, 88.00]",
    ]  # fmt: skip
    assert other[8] == "85.00 ± 0.50 [84.00, 86.00]"


def test_the_best_rival_of_all_and_of_those_that_know_the_zoo_alone() -> None:
    rivals = [
        rival("original", 99.0, {"mean": -5.0, "interval": [-6.0, -4.0]}),
        rival("base_lookup", 98.0, {"mean": -4.0, "interval": [-5.0, -3.0]}),
        rival("ridge_recounted", 92.0, {"mean": 2.0, "interval": [1.0, 3.0]}),
        rival("ridge", 90.0, {"mean": 4.0, "interval": [3.0, 5.0]}),
    ]
    result = AblationResult.model_validate({"variants": [variant("plain", 94.0)], "best": "plain", "rivals": rivals})
    assert list(conclusions(result)) == [
        "- held-out: RPG loses. The best rival is *base network alone*; RPG (plain) minus it is -4.00 [-5.00, -3.00]"
        " points.",
        "- held-out, beside rivals that know the zoo alone: RPG wins. The best rival is *ridge regression, bits,"
        " BatchNorm recounted*; RPG (plain) minus it is +2.00 [+1.00, +3.00] points.",
    ]
    below = cells(ablation("which", "Which one?", "mini", result).split("\n\n")[3])
    assert below[2][-1] == "-5.00 [-6.00, -4.00]"
    assert below[0][-1] == "RPG (plain) − it, test"


def test_a_smaller_error_wins() -> None:
    """The mean of rivals is 0.4 and 0.3; RPG has 0.1 less than the better one, which is a win."""
    rivals = [
        rival("ridge", 0.4, {"mean": -0.2, "interval": [-0.3, -0.1]}),
        rival("ridge_pairs", 0.3, {"mean": -0.1, "interval": [-0.15, -0.05]}),
    ]
    tree = {"variants": [variant("plain", 0.2)], "best": "plain", "rivals": rivals}
    result = AblationResult.model_validate({**tree, "unit": "m", "lower_is_better": True})
    assert next(iter(conclusions(result))) == (
        "- held-out: RPG wins. The best rival is *ridge regression, pairs of bits*; RPG (plain) minus it is"
        " -0.1000 [-0.1500, -0.05000] in m."
    )
    text = ablation("which", "Which one?", "mini", result)
    assert "Which one? Scores are in m, and lower is better: *min* is the largest.\n" in text
    rows = [(-0.2, [-0.3, 0.1], "neither wins"), (0.2, [0.1, 0.3], "RPG loses")]
    for mean, interval, outcome in rows:
        tree["rivals"] = [rival("ridge", 0.4, {"mean": mean, "interval": interval})]
        result = AblationResult.model_validate({**tree, "unit": "m", "lower_is_better": True})
        assert next(iter(conclusions(result))).startswith(f"- held-out: {outcome}. ")


def test_asked_and_got_has_the_baselines_once() -> None:
    split = {"correlation": 0.98, "error": 1.5, "interval": [1.0, 2.0], "bias": 0.1, "at": []}
    agreement = {"vector": "accuracy", "set": "held_out", "n": 8, "validation": split, "test": {**split, "error": 1.8}}
    methods = [{**agreement, "method": method} for method in ("rpg", "rpg_corrected", "nearest_checkpoint")]
    variants = [{**variant(name, 90.0), "wanted": methods} for name in ("scores", "outputs")]
    text = ablation("which", "Which one?", "mini", AblationResult.model_validate({"variants": variants}))
    rows = cells(text.split("Asked and got")[1])[2:]
    assert [row[0] for row in rows] == [
        "scores", "scores, corrected", "nearest checkpoint", "outputs", "outputs, corrected"
    ]  # fmt: skip
    assert rows[0][1:] == ["accuracy", "held-out", "8", "0.980", "1.50 [1.00, 2.00]", "0.980", "1.80 [1.00, 2.00]"]
    assert "Asked and got" not in ablation(
        "which", "Which one?", "mini", AblationResult.model_validate({"variants": [variant("plain", 90.0)]})
    )
