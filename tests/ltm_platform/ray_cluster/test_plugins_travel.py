"""What other packages add goes along: to a cluster, and into logged models."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import ltm
from ltm import plugins
from ltm_platform.ray_cluster.code_upload import code_files, write_package
from ltm_platform.tracking.model import ImageInput, save_model

from ...ltm.packages import install

HALVE = '''
from ltm.methods.tome import TokenMerging


class Halve(TokenMerging):
    """ToMe by another name."""
'''


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages with one that has a method called halve."""
    root = tmp_path / "site"
    install(root, "halve", {"halve.py": HALVE}, {"ltm.methods": {"halve": "halve:Halve"}})
    monkeypatch.syspath_prepend(str(root))
    plugins._points.cache_clear()
    yield root
    sys.modules.pop("halve", None)
    plugins._points.cache_clear()


def elsewhere(program: str, folder: Path) -> str:
    """What a program prints in a process that finds our code and plugins in ``folder`` alone."""
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{program}"],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.usefixtures("site")
@pytest.mark.slow
def test_a_cluster_gets_the_package_of_a_method_and_finds_it(tmp_path: Path) -> None:
    folder = tmp_path / "sent"

    write_package(folder)

    assert "halve.py" in {str(file.to) for file in code_files()}
    program = "import ltm, halve; print('halve' in ltm.list_methods(), halve.__file__)"
    assert elsewhere(program, folder) == f"True {folder / 'halve.py'}"


@pytest.mark.usefixtures("site")
@pytest.mark.slow
def test_a_logged_model_brings_the_code_of_its_method_along(tmp_path: Path) -> None:
    network = ltm.create_model("vit_nano_patch4_32", method="halve", num_classes=3).eval()
    inputs = ImageInput(32, 32, (0.5,) * 3, (0.5,) * 3, True, "white", ("a", "b", "c"))
    folder = tmp_path / "model"

    save_model(network, inputs, folder, run_id="0" * 32, model_id="m-1")

    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
    torch.save(images, tmp_path / "images.pt")
    program = (
        "import json, mlflow, torch\n"
        f"network = mlflow.pytorch.load_model({str(folder)!r})\n"
        f"print(json.dumps(network(torch.load({str(tmp_path / 'images.pt')!r})).tolist()))"
    )
    printed = elsewhere(program, tmp_path)
    with torch.no_grad():
        assert torch.allclose(torch.tensor(json.loads(printed)), network(images), atol=1e-6)


@pytest.mark.usefixtures("site")
def test_a_logged_model_of_our_own_brings_no_other_package_along(tmp_path: Path) -> None:
    network = ltm.create_model("vit_nano_patch4_32", method="tome", num_classes=3).eval()
    inputs = ImageInput(32, 32, (0.5,) * 3, (0.5,) * 3, True, "white", ("a", "b", "c"))

    save_model(network, inputs, tmp_path / "model", run_id="0" * 32, model_id="m-1")

    assert not (tmp_path / "model" / "code" / "halve.py").exists()
    assert (tmp_path / "model" / "code" / "ltm").is_dir()
