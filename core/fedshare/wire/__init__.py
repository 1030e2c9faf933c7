"""What crosses the wire. Generated from protos/: see scripts/protoc."""
