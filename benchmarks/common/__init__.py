"""What the wings of the benchmarks share: model, scores, errors, records, Markdown, colours."""
