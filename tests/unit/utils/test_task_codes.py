from itertools import product

import pytest

from rpg.utils import task_codes

HELD_OUT = [314, 482, 589, 197, 462, 111, 101, 278, 793, 279, 653, 238, 1001, 141, 884, 592, 502, 643, 383, 128]


def test_there_are_1022_valid_codes() -> None:
    every = {"".join(bits) for bits in product("01", repeat=10)}
    assert sum(map(task_codes.valid, every)) == 1022
    assert not task_codes.valid("0" * 10)
    assert not task_codes.valid("1" * 10)
    assert not task_codes.valid("01")
    assert {task_codes.of_number(number) for number in range(1, 1023)} == {
        code for code in every if task_codes.valid(code)
    }


def test_first_digit_is_class_0() -> None:
    # 314 = 256 + 32 + 16 + 8 + 2
    assert task_codes.of_number(314) == "0100111010"
    assert task_codes.of_classes([1, 4, 5, 6, 8]) == "0100111010"
    assert task_codes.bits("0100111010") == [0, 1, 0, 0, 1, 1, 1, 0, 1, 0]


def test_complement_and_distance() -> None:
    assert task_codes.complement("0001000010") == "1110111101"
    assert task_codes.distance("0001000010", "0001000011") == 1
    assert task_codes.distance("0001000010", task_codes.complement("0001000010")) == 10


def test_seen_codes_give_no_held_out_task_away() -> None:
    held = [task_codes.of_number(number) for number in HELD_OUT]
    seen = task_codes.draw_seen(982, 0, held)
    assert len(set(seen)) == 982
    assert not set(seen) & {*held, *map(task_codes.complement, held)}
    # More codes are added to those that were there.
    assert task_codes.draw_seen(300, 0, held) == seen[:300]
    assert task_codes.draw_seen(300, 1, held) != seen[:300]
    with pytest.raises(ValueError, match="only 982"):
        task_codes.draw_seen(983, 0, held)
