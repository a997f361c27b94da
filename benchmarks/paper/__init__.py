"""The paper's protocol on its own data sets: train, stop and go on, score, and compare.

`run` is the whole of one command; `training` is the loop.
"""
