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
_LOW = np.uint64(0xFFFFFFFF)


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
        Token ids, which the hashes depend on alone.
    """
    out = np.empty(len(gene_ids), np.uint64)
    for i in range(len(gene_ids)):
        out[i] = _mix((np.uint64(gene_ids[i]) + np.uint64(1)) * _GOLDEN)
    return out


@njit(cache=True, nogil=True)
def _levels(bits, shift, table, counts, slot_of, order):
    """Gather distinct values: the slot of each value, the count of each slot, and the sorted values with their slots.

    `table` is an open-addressing table of values (as bits, 0 when free) of size 2 ** (64 - shift). `order` gets one
    number per distinct value, its bits above its slot: bits of positive floats sort as the floats do.
    """
    mask = np.uint64(len(table) - 1)
    table[:] = 0
    n = 0
    for i in range(len(bits)):
        value = bits[i]
        at = (np.uint64(value) * _GOLDEN) >> shift
        while table[at] != value:
            if table[at] == 0:
                table[at], counts[at] = value, 0
                order[n] = np.uint64(value) << np.uint64(32) | at
                n += 1
                break
            at = (at + np.uint64(1)) & mask
        counts[at] += np.uint32(1)
        slot_of[i] = np.uint32(at)
    order[:n].sort()
    return n


@njit(cache=True, nogil=True)
def _edges(levels, order, counts, n, quantiles, edges):
    """Quantiles of `n` values given as sorted levels and counts, interpolated as np.quantile does."""
    k, below = 0, 0
    for e in range(len(quantiles)):
        virtual = quantiles[e] * (n - 1)
        low = int(np.floor(virtual))
        share = virtual - low
        while k < len(levels) - 1 and below + counts[order[k] & _LOW] <= low:
            below += counts[order[k] & _LOW]
            k += 1
        a = np.float64(levels[k])
        b = a
        if k + 1 < len(levels) and below + counts[order[k] & _LOW] <= low + 1:
            b = np.float64(levels[k + 1])
        edges[e] = b - (b - a) * (1 - share) if share >= 0.5 else a + (b - a) * share


@njit(cache=True, nogil=True)
def _scratch(indptr, n_edges):
    """Work space of `_ties` for the longest row: table, counts, ties, order, level bits, slot of each value, edges."""
    longest = 1
    for r in range(len(indptr) - 1):
        longest = max(longest, indptr[r + 1] - indptr[r])
    size = 4
    while size < 2 * longest:
        size *= 2
    return (
        np.empty(size, np.uint32),
        np.empty(size, np.uint32),
        np.empty(size, np.uint32),
        np.empty(longest, np.uint64),
        np.empty(longest, np.uint32),
        np.empty(longest, np.uint32),
        np.empty(n_edges, np.float64),
    )


@njit(cache=True, nogil=True)
def _ties(bits, quantiles, scratch):
    """For one row, the slot of each value, and by slot the bins it may fall in: (first bin) * 2**16 + (how many)."""
    table, counts, ties, order, level_bits, slot_of, edges = scratch
    n = len(bits)
    used = 2
    while 2**used < 2 * n:
        used += 1
    n_levels = _levels(bits, np.uint64(64 - used), table[: 2**used], counts, slot_of, order)
    if n_levels == 0:
        return slot_of, ties
    for i in range(n_levels):
        level_bits[i] = np.uint32(order[i] >> np.uint64(32))
    levels = level_bits[:n_levels].view(np.float32)
    _edges(levels, order, counts, n, quantiles, edges)
    high = 0
    for i in range(n_levels):
        level = np.float64(levels[i])
        low = high
        while low < len(edges) and edges[low] < level:
            low += 1
        high = low
        while high < len(edges) and edges[high] <= level:
            high += 1
        # Upstream: ceil(u * (high - low) + low), u uniform: one of low + 1 .. high, or high when nothing ties.
        first = low + 1 if high > low else high
        ties[order[i] & _LOW] = np.uint32(first << 16 | max(high - low, 1))
    return slot_of, ties


@njit(cache=True, nogil=True, inline="always")
def _bin(tie: np.uint32, mixed: np.uint64) -> np.float32:
    # Both hashes in `mixed` are mixed already: one multiplication breaks the linearity of xor, and no branch is cheaper
    # than skipping values without ties.
    u = (mixed * _SAMPLE) >> np.uint64(32)
    return np.float32((tie >> np.uint32(16)) + np.uint32((u * np.uint64(tie & np.uint32(0xFFFF))) >> np.uint64(32)))


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
    scratch = _scratch(indptr, len(quantiles))
    bits = data.view(np.uint32)
    for r in range(len(indptr) - 1):
        row = slice(indptr[r], indptr[r + 1])
        slot_of, ties = _ties(bits[row], quantiles, scratch)
        row_columns, row_out = columns[row], out[row]
        for i in range(len(row_columns)):
            row_out[i] = _bin(ties[slot_of[i]], cell_keys[r] ^ gene_hashes[np.uint64(row_columns[i])])


@njit(cache=True, nogil=True)
def _sample(columns, gene_hashes, cell_key, n_max, ranks, chosen):
    """Choose `n_max` of more columns, uniformly and without replacement, in their order.

    Each gene gets a hash of its cell and itself, and the smallest are kept: a smaller `n_max` keeps a subset.
    """
    buckets = np.zeros(256, np.int64)
    for i in range(len(columns)):
        ranks[i] = _mix((cell_key ^ gene_hashes[np.uint64(columns[i])]) + _SAMPLE)
        buckets[ranks[i] >> np.uint64(56)] += 1
    # The n_max-th smallest lies in the bucket where the running count passes n_max: only that one is sorted.
    bucket, below = 0, 0
    while below + buckets[bucket] <= n_max:
        below += buckets[bucket]
        bucket += 1
    inside = np.empty(buckets[bucket], np.uint64)
    at = 0
    for i in range(len(columns)):
        if ranks[i] >> np.uint64(56) == bucket:
            inside[at] = ranks[i]
            at += 1
    limit = np.sort(inside)[n_max - below]
    at = 0
    for i in range(len(columns)):
        chosen[at] = i  # overwritten unless kept: a branch here would be guessed wrong half of the time
        at += ranks[i] < limit


@njit(cache=True, nogil=True)
def token_rows(
    data,
    indptr,
    columns,
    column_ids,
    gene_hashes,
    cell_keys,
    quantiles,
    cls_id,
    pad_id,
    pad_value,
    gene_ids,
    values,
    padding,
):
    """Bin each row, keep a random sample of its genes where they do not fit, and write tokens.

    Parameters
    ----------
    data, indptr, columns, gene_hashes, cell_keys, quantiles
        As in `bin_rows`; all genes of a row count for its bins.
    column_ids
        Token id of each column.
    cls_id, pad_id, pad_value
        Id at position 0, id at padding, and the value at both.
    gene_ids, values, padding
        Arrays of shape (row, length), filled in place.
    """
    n_max = gene_ids.shape[1] - 1
    scratch = _scratch(indptr, len(quantiles))
    ranks = np.empty(len(scratch[5]), np.uint64)
    chosen = np.empty(len(scratch[5]), np.uint32)
    bits = data.view(np.uint32)
    for r in range(len(indptr) - 1):
        n = indptr[r + 1] - indptr[r]
        row_columns, row_ids, row_values = columns[indptr[r] : indptr[r + 1]], gene_ids[r, 1:], values[r, 1:]
        sampled = n > n_max
        slot_of, ties = _ties(bits[indptr[r] : indptr[r + 1]], quantiles, scratch)
        if sampled:
            _sample(row_columns, gene_hashes, cell_keys[r], n_max, ranks, chosen)
            n = n_max
        for j in range(n):
            i = chosen[j] if sampled else np.uint32(j)
            column = np.uint64(row_columns[i])
            row_ids[j] = column_ids[column]
            row_values[j] = _bin(ties[slot_of[i]], cell_keys[r] ^ gene_hashes[column])
        gene_ids[r, 0], values[r, 0] = cls_id, pad_value
        row_ids[n:], row_values[n:] = pad_id, pad_value
        padding[r, : n + 1], padding[r, n + 1 :] = False, True


@njit(cache=True, nogil=True)
def first_fault(gene_ids, values, padding, n_bins, n_tokens):
    """Row and position of the first gene with an impossible bin or id, or that its cell has twice; -1, -1 for none.

    Parameters
    ----------
    gene_ids, values, padding
        Tokens, each (row, length), with ``<cls>`` at position 0.
    n_bins
        Number of bins with that of no expression.
    n_tokens
        Number of token ids, one more than the largest.
    """
    seen = np.full(n_tokens, -1, np.int64)
    for r in range(gene_ids.shape[0]):
        for j in range(1, gene_ids.shape[1]):
            if padding[r, j]:
                continue
            gene, value = gene_ids[r, j], values[r, j]
            if gene < 0 or gene >= n_tokens or seen[gene] == r or not (1 <= value < n_bins) or value != np.floor(value):
                return r, j
            seen[gene] = r
    return -1, -1
