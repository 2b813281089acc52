from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference tensors and real footage that some checkouts have beside them."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no shared/ folder with reference data beside this checkout")
    return folder
