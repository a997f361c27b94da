"""MIDAS against other methods on small data sets: tasks, training, suites and their reports."""
