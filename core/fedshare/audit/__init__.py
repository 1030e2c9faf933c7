"""The audit log: entries, tiles, checkpoints, proofs, witnesses, receipts.

Formats are those of C2SP (tlog-tiles, tlog-checkpoint, signed-note, tlog-cosignature, tlog-witness,
tlog-policy, tlog-proof) over the Merkle tree of RFC 6962, so any implementation of them reads what this one
writes. What the entries say is ours: `fedshare.audit.statements`. ``docs/audit-log.md`` has the whole story.
"""
