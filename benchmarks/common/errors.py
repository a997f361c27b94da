"""The one error of the benchmarks that ends a command with its message, without a traceback."""


class DataError(Exception):
    """Data that cannot be had, or are not what they should be; the message is one line."""
