"""What is held against the model: rulers, null rulers, holdouts, gates, the screen of heads, and the methods of the benchmark."""

from workbench.lazy import lazily

__getattr__, __dir__ = lazily(
    __name__,
    anchor_set="AnchorSet",
    gate_spec="SPEC GateSpec",
    gates="evaluate expected_to_fail first_five",
    holdout="group_splits head_scores holdout_correlation random_splits with_null",
    ruler="load_ruler",
    screen="rank_heads score_head",
)
