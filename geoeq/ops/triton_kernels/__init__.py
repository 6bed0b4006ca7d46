"""Triton kernels behind geoeq.ops; imported only where they run, since triton is optional.

All follow one pattern: edges sorted by receiver, one program owns the rows it writes and keeps their sums in
registers. There are no atomics, so results do not depend on timing. Offsets are int64: E times C may pass 2^31.
"""
