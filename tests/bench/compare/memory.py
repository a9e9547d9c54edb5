"""How fast this machine reads memory: the floor of what every step has to read."""

import statistics
import time

import torch


def bytes_a_second(threads):
    """The median of some sums over 1 GB, far more than any cache holds."""
    torch.set_num_threads(threads)
    values = torch.ones(2**28)
    times = []
    for _ in range(9):
        began = time.perf_counter()
        values.sum()
        times.append(time.perf_counter() - began)
    return values.nbytes / statistics.median(times)
