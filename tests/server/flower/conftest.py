"""Flower is imported here once, because what it imports warns about itself and warnings are errors in tests."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import flwr.cli.build  # noqa: F401
    import flwr.supernode.cli  # noqa: F401
