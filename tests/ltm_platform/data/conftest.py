from __future__ import annotations

import pytest

from ltm_platform.data import Dataset, open_dataset


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset("digits", cache=tmp_path_factory.mktemp("cache"), val_fraction=0.5)
