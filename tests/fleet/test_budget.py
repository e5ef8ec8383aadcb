"""Which values slices draw: time goes where new things are, whoever was faster, and no kind is given up."""

from collections import Counter

from indexfuzz.fleet.budget import RECENT, SIGNATURE, Budget, shares_of
from indexfuzz.fleet.slices import Result

KINDS = ("normal", "ties", "zeros")


def result(number, *signatures, reached=()):
    return Result(number, "node", "toy", signatures=signatures, reached=frozenset(reached))


def draw(find, slices=100, ahead=4, asked=KINDS):
    """The slices of a campaign in which `find` says what each finds; each is heard of in its order."""
    budget, drawn = Budget(asked, ahead), []
    for number in range(1, slices + 1):
        part = budget.next_slice()
        drawn.append(part)
        budget.hear(number, find(part))
    return drawn


def single(drawn):
    return Counter(part.values[0] for part in drawn if len(part.values) == 1)


def new_things(part):
    """Ties find something new each time, the others nothing."""
    new = [f"{part.number} {i}" for i in range(20)] if part.values == ("ties",) else []
    return result(part.number, reached=new)


def test_every_other_slice_draws_all_kinds():
    assert [part.values for part in draw(new_things, 10)][::2] == [KINDS] * 5


def test_time_goes_to_the_kind_that_finds_something():
    counts = single(draw(new_things))
    assert counts["ties"] > 2 * (counts["normal"] + counts["zeros"])


def test_a_kind_that_finds_nothing_is_not_given_up():
    late = single(draw(new_things)[50:])
    assert min(late[kind] for kind in KINDS) >= 1


def test_where_nothing_is_found_all_kinds_have_the_same():
    assert set(single(draw(lambda part: result(part.number), 60)).values()) == {10}


def test_what_is_found_twice_is_new_once():
    """A kind that always finds the same is worth nothing after the first time."""

    def same(part):
        return result(part.number, "gather/crash/E", reached=["x"]) if part.values == ("zeros",) else new_things(part)

    counts = single(draw(same))
    assert counts["ties"] > 2 * counts["zeros"]


def test_a_signature_counts_more_than_what_was_reached():
    def found(part):
        if part.values == ("zeros",):
            return result(part.number, f"gather/crash/E{part.number}")
        return result(part.number, reached=[str(part.number)] if part.values == ("ties",) else [])

    counts = single(draw(found))
    assert SIGNATURE > 1
    assert counts["zeros"] > 2 * counts["ties"]


def test_slices_are_told_of_those_so_far_before_them():
    drawn = draw(lambda part: result(part.number, f"gather/crash/E{part.number}", reached=[str(part.number)]), 10)
    for part in drawn:
        told = range(1, part.number - 4)
        assert part.known == {("toy", f"gather/crash/E{number}") for number in told}
        assert part.reached == {str(number) for number in told}


def test_what_is_drawn_does_not_depend_on_who_is_faster():
    budget, drawn, waiting = Budget(KINDS, 4), [], []
    while len(drawn) < 60:
        while len(drawn) < 60 and (part := budget.next_slice()) is not None:
            drawn.append(part)
            waiting.append(part)
        part = waiting.pop()  # the last one is the fastest
        budget.hear(part.number, new_things(part))
    assert drawn == draw(new_things, 60)


def test_a_slice_waits_for_what_it_has_to_be_told_of():
    budget = Budget(KINDS, 2)
    assert [budget.next_slice() is None for _ in range(4)] == [False, False, False, True]
    budget.hear(2, result(2))
    assert budget.next_slice() is None
    budget.hear(1, None)
    assert budget.next_slice().number == 4
    assert budget.next_slice().number == 5


def test_one_kind_is_drawn_always_and_no_kind_means_the_usual_ones():
    assert {part.values for part in draw(new_things, 6, asked=("ties",))} == {("ties",)}
    drawn = draw(new_things, 40, asked=())
    assert drawn[0].values == ()
    assert "nonfinite" not in single(drawn)


def test_shares():
    assert shares_of(KINDS, {}) == dict.fromkeys(KINDS, 1.0)
    assert shares_of(KINDS, {"normal": [8, 0], "ties": [0]}) == {"normal": 4.0, "ties": 0.5, "zeros": 4.0}
    assert RECENT > 1
