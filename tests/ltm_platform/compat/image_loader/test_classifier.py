"""What is copied into every logged model must run where the platform is not installed.

That it does, and what it computes, is shown in ``tracking/test_model.py``.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from ltm_platform.compat import image_loader

# What ``tracking.model`` lists as a logged model's requirements, by the names of the modules.
REQUIRED = {"mlflow", "torch", "torchvision", "PIL", "numpy", "pandas"}


def test_it_imports_what_a_logged_model_requires_and_nothing_else() -> None:
    package = Path(image_loader.__file__).parent
    imported = set()
    for file in package.iterdir():
        for node in ast.walk(ast.parse(file.read_text())) if file.suffix == ".py" else ():
            if isinstance(node, ast.Import):
                imported |= {one.name.split(".")[0] for one in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.module
                name = node.module.split(".")[0]
                if node.level:  # the package is copied whole, under another name
                    assert (package / f"{name}.py").is_file()
                else:
                    imported.add(name)
    assert imported - sys.stdlib_module_names == REQUIRED


def test_the_package_around_it_imports_no_dependency() -> None:
    program = (
        "import sys; before = set(sys.modules); import ltm_platform.compat; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        # the test's own search path, so that it holds for a checkout and for an installed package
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "['ltm_platform']\n"
