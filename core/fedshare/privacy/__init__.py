"""What the federation gives away: the leak ledger."""
