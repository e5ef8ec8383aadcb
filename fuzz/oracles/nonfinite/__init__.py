"""NaN and infinities: how far they may reach, and what they must become."""
