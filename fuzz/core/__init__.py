"""The vocabulary: a case, a finding, a contract, and the words they are told in."""
