"""Guesses tried as arrays are those that hold when they are tried one by one."""

import random
from itertools import combinations, product

import pytest

from indexfuzz.generation.guess import Guess
from indexfuzz.generation.trials import EXACT, Trials

NAMES, OTHERS, NUMBERS, FORMS = ("a", "b", "c"), ("d",), (2, 3, 16), ("modulo", "over", "times", "last")


def families(values):
    """Every guess, in the order in which they are tried."""
    yield [Guess(name) for name in NAMES]
    yield [Guess(name, form, number) for name, number, form in product(NAMES, NUMBERS, FORMS)]
    pairs = combinations(NAMES, 2)
    yield [Guess(*both) for one, other in pairs for both in ((one, "times", 1, other), (other, "times", 1, one))]
    pairs = product(NAMES, (*NAMES, *OTHERS))
    yield [Guess(*both) for one, other in pairs for both in ((one, "times", 1, other), (other, "times", 1, one))]
    measures, seen = values[0]
    varying = [name for name in NAMES if len({m[name] for m, _ in values}) > 1]
    shifts = ((name, operand - measures[name]) for name in varying for operand in sorted(seen))
    yield [Guess(name, "plus", number) for name, number in shifts if number]


def one_by_one(values, first, odd):
    """-> {guess: cases in which it does not hold}, in the order in which the first cases suggest them."""
    *suggested, shifted = (dict.fromkeys(family) for family in families(values))
    asked = [g for m, seen in values[:first] for family in suggested for g in family if g.of(m) in seen]
    missed = {g: sum(g.of(m) not in seen for m, seen in values) for g in (*asked, *shifted)}
    return {guess: times for guess, times in missed.items() if times <= odd}


def as_arrays(values, first, odd):
    trials = Trials(values, first, odd)
    trials.try_plain(NAMES)
    trials.try_numbers(NAMES, NUMBERS, FORMS)
    trials.try_products(NAMES)
    trials.try_products(NAMES, OTHERS)
    trials.try_shifted(NAMES)
    return trials.missed()


def drawn(seed, scale):
    """Measures and operands of some cases: mostly what one guess makes of them, beside other numbers."""
    random_ = random.Random(seed)
    count = random_.randint(1, 9)
    right = random_.choice([Guess("a"), Guess("b", "over", 3), Guess("c", "times", second="d"), Guess("a", "plus", -5)])
    values = []
    for _ in range(count):
        measures = {name: random_.choice((0, 1, 7, random_.randrange(99))) * scale for name in (*NAMES, *OTHERS)}
        noise = {random_.randrange(99) for _ in range(random_.choice((0, 0, 3)))}
        operand = right.of(measures) if random_.random() < 0.9 else 5
        values.append((measures, {operand, *noise}))
    return values


@pytest.mark.parametrize("scale", [1, -3, EXACT, 1 << 66])
def test_what_holds_as_arrays_holds_one_by_one(scale):
    kept = 0
    for seed in range(150):
        values = drawn(seed, scale)
        for first, odd in ((1, 0), (3, len(values) // 2)):
            found = as_arrays(values, first, odd)
            assert list(found.items()) == list(one_by_one(values, first, odd).items())
            kept += len(found)
    assert kept > 150


def test_what_was_told_is_not_told_again():
    trials = Trials([({"a": 1}, {1})], 1, 0)
    trials.try_plain(["a"])
    assert trials.missed() == {Guess("a"): 0}
    assert trials.missed() == {}
