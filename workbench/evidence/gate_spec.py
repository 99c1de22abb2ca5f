"""What every gate asks, as one frozen object whose hash stands in every result."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from workbench.files import digest

TRUST, RANDOM, DONOR, BRANCH = "trustworthiness", "random holdout", "donor holdout", "branch holdout"
PERMUTATION, NULL_RULER, TO_FAIL = "blocked permutation", "null ruler", "expected to fail"
GATES = (TRUST, RANDOM, DONOR, BRANCH, PERMUTATION, NULL_RULER, TO_FAIL)


@dataclass(frozen=True)
class GateSpec:
    """Thresholds, draws and definitions of the seven gates.

    The first four thresholds, the number of permutations and their p are the paper's. It leaves open what trustworthiness
    compares, on which anchors labels are permuted, and what "the null ruler fails" means; here

    1. trustworthiness is that of the latent against the feature map it was made from;
    2. to 4. an adaptor is fitted without the held-out anchors, and the score is the mean over splits of the Spearman
       correlation of latent angles with ruler distances: among the held-out anchors (random, donor), or between them
       and the others (branch, whose anchors all lie close together);

    5. labels are permuted only where no label was fitted on: the adaptor comes from one half of the donors (of the
       anchors, where there are no two donors), and the stages of the other half change places inside donor x tissue; of a
       cohort that meets a frozen adaptor all stages do, inside its own donors and tissues. It asks whether the latent
       knows which anchor is which, and any latent that recognises cell types passes;
    6. the gate against that: a line in the order of a hash of the stages' names must fail one of gates 1 to 5, and
       the branch holdout must beat that of all rulers whose stages changed places at random (adaptor fitted again);
    7. every cohort that is expected to fail must fail one of gates 1 to 5.

    Where library size, detected genes or mitochondrial share of the cells are known, gates 1 to 5 are asked twice: of features
    without what follows these, and of features as they are; both have to pass. Gate 6 compares the former.

    Attributes
    ----------
    trustworthiness, neighbours
        Gate 1: at least, for that many neighbours.
    correlation
        Gates 2 to 4: at least.
    random_splits
        Random holdouts, of 30 % of the anchors each.
    permutation_p, permutations
        Gate 5: at most, with so many draws.
    null_p, null_rulers
        Gate 6: at most, with so many rulers.
    """

    trustworthiness: float = 0.80
    neighbours: int = 10
    correlation: float = 0.20
    random_splits: int = 20
    permutation_p: float = 0.001
    permutations: int = 2000
    null_p: float = 0.01
    null_rulers: int = 99
    # Of the list above; a change of what is computed raises it. 2: a zero-shot cohort keeps its donors and tissues as blocks, and
    # its donor holdout, where the cohort that was fitted on names none. 3: what follows sequencing is regressed out.
    definitions: int = 3

    @property
    def hash(self) -> str:
        """Eight hex digits that stand for all of it."""
        return digest(asdict(self))[:8]


SPEC = GateSpec()
