"""Comparison of modality-imbalance methods on real data; see benchmarks/README.md."""
