"""A campaign on many machines: Ray runs its slices, a folder behind a URL holds what they find.

`slices.py` is what is asked of a machine and what comes back, `work.py` does it, `budget.py` says which slice draws
what, `dispatch.py` hands out slices, `cluster.py` has Ray run them where `needs.py` says, `shared.py` is the folder,
`collecting.py` merges what lies there.
"""
