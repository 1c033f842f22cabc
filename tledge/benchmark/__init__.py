"""Latency, load time and memory on this machine."""
