"""Import Flower once, because what it imports warns about itself and warnings are errors here."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import flwr.supernode.cli  # noqa: F401
