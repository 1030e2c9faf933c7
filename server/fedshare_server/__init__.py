"""The coordinator: enrolment, contracts, the exchange of envelopes and the Flower runs; it holds no data."""
