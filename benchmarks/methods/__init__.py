"""The methods, one a file; `benchmarks.methods.entries` lists them with their hyper-parameters."""
