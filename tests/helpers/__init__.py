"""What several test files share: the reference, Hypothesis strategies, planted data, a counter."""
