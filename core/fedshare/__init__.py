"""fedshare: the shared library of a federation for small-enterprise credit."""
