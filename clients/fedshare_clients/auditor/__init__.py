"""The auditor: reads a log, verifies it, reports; and the witness that any institution runs.

Everything here works offline on a copied folder with the base dependencies alone, no Flower, gRPC, torch or
NumPy; only `follow` and `witness` touch the network.
"""
