"""Files of the transfers between studies: counts that are restored from logged values."""

import numpy as np
import pytest
import scipy.sparse as sp
from helpers import load_script


@pytest.fixture(scope="module")
def script():
    return load_script("transfer_studies")


@pytest.mark.parametrize("base", [np.e, 2.0])
def test_counts_come_back_from_logs_with_a_scale_of_each_cell(script, base):
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.7, (30, 50)).astype(float)
    counts[:, 0] = 1  # each cell has a gene that was counted once
    counts[3] = 0
    logged = np.log1p(counts * rng.uniform(0.1, 40, (30, 1))) / np.log(base)
    np.testing.assert_array_equal(script.restored(sp.csr_matrix(logged.astype(np.float32)), base).toarray(), counts)


def test_values_that_are_no_multiples_are_refused(script):
    values = sp.csr_matrix(np.log1p(np.random.default_rng(1).gamma(2.0, size=(5, 40))))
    with pytest.raises(SystemExit, match="no whole multiples"):
        script.restored(values, np.e)
