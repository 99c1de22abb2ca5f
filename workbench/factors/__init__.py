"""An operator taken apart: factors, whether they last, what breaks without them, gene programs, smaller forms."""

from workbench.lazy import lazily

__getattr__, __dir__ = lazily(
    __name__,
    compaction="judge variants",
    factorise="hard_sparse relative_error svd_factors top_genes",
    gene_sets="load_gene_sets on_panel",
    necessity="ablate_factors",
    necessity_tables="impacts",
    programs="enrich",
    stability="",
)
