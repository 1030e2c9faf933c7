"""Messages and services between institutions and coordinator, version 1. Generated: see scripts/protoc."""
