"""Who says what: keys, signed statements, certificates, and sessions between the parties of a run."""
