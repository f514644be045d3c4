"""Benchmarks: commands that print ratios beside a peer, measured in one run on one machine."""
