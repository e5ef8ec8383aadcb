"""A user's own kernels: any importable module that defines `implementation`."""

import importlib
import sys

from indexfuzz.implementations.base import Implementation, ImplementationError


def load(name: str) -> Implementation:
    """Import a module (the current folder included) and take its `implementation`.

    Raises ImplementationError when the module cannot be imported or has no such Implementation.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise ImplementationError(f"module:{name} cannot be imported: {type(error).__name__}: {error}") from error
    implementation = getattr(module, "implementation", None)
    if not isinstance(implementation, Implementation):
        wanted = f"{Implementation.__module__}.{Implementation.__name__}"
        raise ImplementationError(f"module:{name} must define `implementation`, an instance of {wanted}")
    return implementation
