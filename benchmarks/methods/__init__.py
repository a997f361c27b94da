"""The methods, one a file; `benchmarks.entries` lists them with their hyper-parameters."""
