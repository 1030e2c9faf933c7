"""What the parties agree to, how they sign it, and what a node refuses because of it."""
