"""From heads to a small algorithm: operator export, adaptor, readout, and the exported file."""

from workbench.lazy import lazily

__getattr__, __dir__ = lazily(
    __name__,
    adaptor="LETAdaptor angles",
    algorithm="Algorithm fold",
    apply="apply_file",
    controls="CONTROLS GAUSSIAN IDENTITY added_value coexpression control",
    estimator="Extractor",
    operator="DenseOperators FeatureMapSpec feature_map screen_weights",
    cross_validation="cross_validate",
    readout="endpoints",
)
