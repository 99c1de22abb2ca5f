"""Binning and gene sampling of a block of cells, compiled; random numbers come from a hash of cell and gene.

Upstream bins each cell by the quantiles of its own non-zero values and spreads a value that lies on several edges
at random over the bins between them. Count data have few distinct values, so here a cell's values are first gathered
into distinct levels (by hashing), and quantiles and bins are found once per level instead of once per value.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SAMPLE = np.uint64(0xD1B54A32D192ED03)


@njit(cache=True, nogil=True, inline="always")
def _mix(x: np.uint64) -> np.uint64:
    # splitmix64's finaliser: every input bit reaches every output bit.
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True)
def hash_genes(gene_ids):
    """Hash of each gene id, to be mixed with a cell's key.

    Parameters
    ----------
    gene_ids
        Token ids.
    """
    out = np.empty(len(gene_ids), np.uint64)
    for i in range(len(gene_ids)):
        out[i] = _mix((np.uint64(gene_ids[i]) + np.uint64(1)) * _GOLDEN)
    return out


@njit(cache=True, nogil=True)
def _levels(bits, shift, slots, levels, counts, level_of):
    """Gather distinct values: `level_of` each value, the `levels` themselves (as bits) and their `counts`.

    `slots` is an open-addressing table of level numbers; its size is 2 ** (64 - shift).
    """
    mask = len(slots) - 1
    slots[:] = -1
    n = 0
    for i in range(len(bits)):
        value = bits[i]
        at = np.int64((np.uint64(value) * _GOLDEN) >> shift)
        level = slots[at]
        while level >= 0 and levels[level] != value:
            at = (at + 1) & mask
            level = slots[at]
        if level < 0:
            level = n
            slots[at], levels[n], counts[n] = n, value, 0
            n += 1
        counts[level] += 1
        level_of[i] = level
    return n


@njit(cache=True, nogil=True)
def _edges(levels, counts, n, quantiles, edges):
    """Quantiles of `n` values given as sorted levels and counts, interpolated as np.quantile does."""
    k, below = 0, 0
    for e in range(len(quantiles)):
        virtual = quantiles[e] * (n - 1)
        low = int(np.floor(virtual))
        share = virtual - low
        while k < len(levels) - 1 and below + counts[k] <= low:
            below += counts[k]
            k += 1
        a = np.float64(levels[k])
        b = a
        if k + 1 < len(levels) and below + counts[k] <= low + 1:
            b = np.float64(levels[k + 1])
        edges[e] = b - (b - a) * (1 - share) if share >= 0.5 else a + (b - a) * share


@njit(cache=True, nogil=True)
def bin_rows(data, indptr, columns, gene_hashes, cell_keys, quantiles, out):
    """Bin the non-zero values of each row.

    Parameters
    ----------
    data
        float32 values > 0, row after row.
    indptr, columns
        Row boundaries and column of each value, as in CSR.
    gene_hashes
        `hash_genes` of the token id of each column.
    cell_keys
        uint64 key of each row.
    quantiles
        Positions of the bin edges, from 0 to 1.
    out
        float32, filled with bins from 1 to ``len(quantiles)``.
    """
    longest = 1
    for r in range(len(indptr) - 1):
        longest = max(longest, indptr[r + 1] - indptr[r])
    power = 2
    while 2**power < 2 * longest:
        power += 1
    slots = np.empty(2**power, np.int32)
    level_bits = np.empty(longest, np.uint32)
    counts = np.empty(longest, np.int64)
    level_of = np.empty(longest, np.int32)
    edges = np.empty(len(quantiles), np.float64)
    first = np.empty(longest, np.uint64)
    width = np.empty(longest, np.uint64)
    bits = data.view(np.uint32)
    for r in range(len(indptr) - 1):
        start, stop = indptr[r], indptr[r + 1]
        n = stop - start
        if n == 0:
            continue
        used = 2
        while 2**used < 2 * n:
            used += 1
        shift = np.uint64(64 - used)
        n_levels = _levels(bits[start:stop], shift, slots[: 2**used], level_bits, counts, level_of)
        levels = level_bits[:n_levels].view(np.float32)
        order = np.argsort(levels)
        _edges(levels[order], counts[:n_levels][order], n, quantiles, edges)
        for i in range(n_levels):
            low = np.searchsorted(edges, np.float64(levels[i]), side="left")
            high = np.searchsorted(edges, np.float64(levels[i]), side="right")
            # Upstream: ceil(u * (high - low) + low), u uniform: one of low + 1 .. high, or high when nothing ties.
            width[i] = max(high - low, 1)
            first[i] = low + 1 if high > low else high
        for i in range(n):
            # Both hashes are mixed already: one multiplication breaks the linearity of xor, and no branch is cheaper
            # than skipping values without ties.
            level = level_of[i]
            u = ((cell_keys[r] ^ gene_hashes[columns[start + i]]) * _SAMPLE) >> np.uint64(32)
            out[start + i] = np.float32(np.int32(first[level] + ((u * width[level]) >> np.uint64(32))))


@njit(cache=True, nogil=True)
def sample_rows(indptr, columns, gene_hashes, cell_keys, n_max, keep):
    """Mark in `keep` a uniform random sample of at most `n_max` genes per row, without replacement.

    Each gene gets a hash of its cell and itself, and the smallest are kept: a smaller `n_max` keeps a subset.

    Parameters
    ----------
    indptr, columns, gene_hashes, cell_keys
        As in `bin_rows`.
    n_max
        Genes to keep per row.
    keep
        bool per value, filled.
    """
    longest = 1
    for r in range(len(indptr) - 1):
        longest = max(longest, indptr[r + 1] - indptr[r])
    ranks = np.empty(longest, np.uint64)
    buckets = np.zeros(256, np.int64)
    for r in range(len(indptr) - 1):
        start, stop = indptr[r], indptr[r + 1]
        if stop - start <= n_max:
            keep[start:stop] = True
            continue
        n = stop - start
        buckets[:] = 0
        for i in range(n):
            ranks[i] = _mix((cell_keys[r] ^ gene_hashes[columns[start + i]]) + _SAMPLE)
            buckets[ranks[i] >> np.uint64(56)] += 1
        # The n_max-th smallest lies in the bucket where the running count passes n_max: only that one is sorted.
        bucket, below = 0, 0
        while below + buckets[bucket] <= n_max:
            below += buckets[bucket]
            bucket += 1
        inside = np.empty(buckets[bucket], np.uint64)
        at = 0
        for i in range(n):
            if ranks[i] >> np.uint64(56) == bucket:
                inside[at] = ranks[i]
                at += 1
        limit = np.sort(inside)[n_max - below]
        for i in range(n):
            keep[start + i] = ranks[i] < limit


@njit(cache=True, nogil=True)
def fill_rows(indptr, columns, column_ids, bins, keep, gene_ids, values):
    """Write kept genes and their bins behind position 0 of padded arrays.

    Parameters
    ----------
    indptr, columns
        As in `bin_rows`.
    column_ids
        Token id of each column.
    bins, keep
        From `bin_rows` and `sample_rows`.
    gene_ids, values
        Shape (row, length), filled from column 1 on.
    """
    for r in range(len(indptr) - 1):
        at = 1
        for i in range(indptr[r], indptr[r + 1]):
            if keep[i]:
                gene_ids[r, at] = column_ids[columns[i]]
                values[r, at] = bins[i]
                at += 1
