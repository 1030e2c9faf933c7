"""The institution's process: its data, its part in a run, and the gate that keeps both."""
