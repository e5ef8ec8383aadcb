"""The counter RNG: known answers, independence of shape and order."""

import torch

from indexfuzz.core import rng


def test_first_words_of_splitmix64_with_seed_zero():
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [word % (1 << 64) for word in rng.bits(0, (3,)).tolist()] == expected


def test_an_element_depends_on_its_index_alone():
    whole = rng.bits(7, (10, 10)).reshape(-1)
    assert torch.equal(rng.bits_at(7, torch.tensor([99, 3, 42])), whole[[99, 3, 42]])


def test_below_stays_below_and_reaches_both_ends():
    drawn = rng.below(rng.bits(1, (10_000,)), 7)
    assert sorted(set(drawn.tolist())) == list(range(7))


def test_permutation_is_one_and_is_pinned():
    assert sorted(rng.permutation(3, 8).tolist()) == list(range(8))
    assert rng.permutation(3, 8).tolist() == rng.permutation(3, 8).tolist()


def test_keys_differ_by_seed_and_purpose():
    assert len({rng.derive(seed, name) for seed in range(10) for name in "abc"}) == 30
