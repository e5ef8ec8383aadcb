"""`python -m indexfuzz` is the command line."""

from indexfuzz.cli import main

main()
