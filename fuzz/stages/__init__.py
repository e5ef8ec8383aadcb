"""The stages of the indexer: what each reads and fills, its reference, and how it is judged."""
