"""How fast it is: variants of one thing, interleaved in one run, as ratios with their spread."""
