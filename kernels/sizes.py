"""Sizes of grids and tiles in plain integers: what Triton has for them looks for constexprs first, at 2 us a call."""


def cdiv(size: int, part: int) -> int:
    """How many parts cover a size: the quotient, rounded up."""
    return -(-size // part)


def next_power_of_2(size: int) -> int:
    """The smallest power of two that is no less than a positive size."""
    return 1 << (size - 1).bit_length()
