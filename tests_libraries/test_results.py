"""Each library's models give torch.nn's results with fusedrnn's layers, trained and untrained."""

from __future__ import annotations

import pytest

from bench.libraries import MODULES
from bench.libraries.subject import TOLERANCE, compare
from bench.libraries.versions import NotUsableError, subjects_of


@pytest.mark.parametrize("package", MODULES)
def test_results_match_the_unchanged_library(package: str) -> None:
    """`make` also checks which layers were replaced, by name."""
    try:
        subjects = subjects_of(package).SUBJECTS
    except NotUsableError as error:
        pytest.skip(str(error))
    for subject in subjects:
        difference = compare(subject.make(fused=False), subject.make(fused=True))
        assert difference.largest <= TOLERANCE, f"{subject.model}, {subject.change}: {difference}"
