"""Networks on the banks' own columns, trained across banks by sums of their updates.

A contract names a registered kind of network (``registry``); every bank feeds it its own customers under bins that all
banks share (``inputs``), trains it locally (``local``) and takes part in sums over banks (``federation``), which
the caller provides as ``total(step, values, bits)``. With central privacy each round is one noisy gradient step instead
(``private``). A kind is one file in ``kinds`` and one entry point.
"""
