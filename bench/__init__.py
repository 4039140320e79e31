"""Benchmarks: Switchboard beside its peers, interleaved in one run on one machine."""
