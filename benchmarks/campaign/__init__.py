"""Damage and kills, many of them, and what must hold after each; see `benchmarks/campaign.py`."""
