"""The networks that come with fedshare; each is the builder of one entry point."""
