"""Sparse attention on the CPU: loops over the pairs of the support, compiled by numba.

Read in this order: ``kernel`` (the entry), ``workspace`` (what the loops get and keep), ``lists`` (which rows pair with
which), ``forward`` and ``backward`` (the loops), ``vectors`` and ``emitter`` (their innermost steps, in LLVM); then
``compiled`` (how and when numba compiles), ``threads``, ``memory``. ``pattern_kernel`` and ``pattern_loops`` are
for any set of pairs. docs/design/kernels.md explains the design and what was measured on the way.
"""
