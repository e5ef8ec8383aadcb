"""What stands in the cache for the scale of a key."""

import pytest
import torch

from indexfuzz.reference import nibbles
from indexfuzz.reference.scales import FP32, ScaleFormat, by_dim, finite, pack, unpack, values_of

MXFP4 = ScaleFormat("mxfp4", 4)
POWERS = torch.tensor([[2.0**-127, 2.0**-22, 1.0, 2.0**127]])


def test_the_first_quarter_is_the_lowest_byte():
    assert pack(torch.tensor([[1.0, 2.0, 4.0, 2.0**-7]])).tolist() == [127 | 128 << 8 | 129 << 16 | 120 << 24]


def test_one_scale_is_in_all_four_bytes():
    assert pack(torch.tensor([[0.5], [2.0]])).view(torch.uint8).tolist() == [126] * 4 + [128] * 4


def test_every_byte_stands_for_what_it_was_packed_of():
    assert torch.equal(unpack(pack(POWERS)), POWERS)
    words = torch.arange(256, dtype=torch.uint8).repeat_interleave(4).view(torch.int32)
    stands_for = unpack(words)
    assert torch.equal(stands_for[:255, 0].double(), 2.0 ** (torch.arange(255).double() - 127))
    assert bool(stands_for[255].isnan().all())
    assert torch.equal(pack(stands_for), words)


def test_what_is_no_number_becomes_nan():
    words = pack(torch.tensor([[float("inf")], [float("nan")]]))
    assert words.view(torch.uint8).tolist() == [255] * 8
    assert unpack(finite(words)).tolist() == [[1.0] * 4] * 2


def test_no_keys():
    assert pack(torch.ones(0, 4)).shape == (0,)
    assert by_dim(torch.empty(1, 0, dtype=torch.int32), 32).shape == (1, 0, 32)


def test_a_quarter_of_the_dims_has_its_scale():
    assert by_dim(pack(POWERS), 32)[0].tolist() == [float(p) for p in POWERS[0] for _ in range(8)]


def test_bytes_that_must_agree_and_do_not_are_nan():
    one, quarters = ScaleFormat("ue8m0", 1), ScaleFormat("ue8m0", 4)
    words = pack(torch.tensor([[2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 1.0]]))
    assert one.load(words)[0] == 2.0
    assert bool(one.load(words)[1].isnan())
    assert quarters.load(words).tolist() == [2.0] * 7 + [1.0]


def test_values_of_two_to_a_byte_are_read_as_they_were_written():
    codes = nibbles.widened(torch.arange(16).repeat(4)).view(2, 32)
    stored = MXFP4.write(codes)
    assert stored.shape == (2, 16)
    assert torch.equal(MXFP4.read(stored), codes)
    assert torch.equal(FP32.read(FP32.write(codes)), codes)
    assert (MXFP4.quantised("e4m3fnuz"), FP32.quantised("e4m3fnuz")) == ("e2m1", "e4m3fnuz")


@pytest.mark.parametrize("form", [FP32, ScaleFormat("ue8m0", 1), ScaleFormat("ue8m0", 4), MXFP4])
def test_what_is_stored_is_loaded(form):
    scales = torch.tensor([0.5, 1.0, 2.0, 4.0])
    assert torch.equal(form.load(form.store(scales)), scales)
    assert form.store(scales).dtype == form.dtype


def test_groups_of_a_format():
    assert ScaleFormat.of("fp32", 64, 64) == FP32
    assert ScaleFormat.of("ue8m0", 16, 64).groups == 4
    assert ScaleFormat.of("mxfp4", 16, 64) == MXFP4
    for name, group in (("fp32", 16), ("ue8m0", 32), ("e8m0", 64), ("mxfp4", 64)):
        with pytest.raises(ValueError, match=r"one scale per token|four scales|scales must be"):
            ScaleFormat.of(name, group, 64)


def test_fp32_scales_stand_for_themselves():
    scales = torch.tensor([1.5, float("nan")])
    assert torch.equal(values_of(scales[:1]), scales[:1, None])
    assert finite(scales).tolist() == [1.5, 1.0]
