"""Plans: which operation of an implementation does which node of the indexer; the reference fills in the rest."""

from collections.abc import Collection

from indexfuzz.core.stage_names import COVERS, FUSED, NODES, OPTIONAL

FILLED_IN = "the reference"
OF_ITS_OWN = "operations of their own"

Plan = dict[str, tuple[str, ...]]
"""Node -> the operations that do it, each for its own part; none where the reference does."""


def plans(provided: Collection[str]) -> list[Plan]:
    """The plans of an implementation that has these operations.

    An engine that has both a fused and an unfused path has two plans, the unfused one first. A node that several fused
    operations cover, as RoPE of q and of k, is done by all of them. An optional node that nobody does is in none.
    """
    done = {node for name in provided for node in COVERS.get(name, (name,))}
    nodes = [node for node in NODES if node not in OPTIONAL or node in done]
    single: Plan = {node: (node,) if node in provided else () for node in nodes}
    fused = {
        node: operations
        for node in nodes
        if (operations := tuple(name for name in FUSED if name in provided and node in COVERS[name]))
    }
    if not fused:
        return [single]
    doubled = any(single[node] for node in fused)
    return [single, single | fused] if doubled else [single | fused]


def describe_plan(plan: Plan) -> str:
    """A plan in words: "k_norm, rope by fused_q and fused_k; gather by the reference"."""
    nodes = dict[str, list[str]]()
    for node, operations in plan.items():
        by = OF_ITS_OWN if operations == (node,) else " and ".join(operations) or FILLED_IN
        nodes.setdefault(by, []).append(node)
    return "; ".join(f"{', '.join(done)} by {by}" for by, done in nodes.items())
