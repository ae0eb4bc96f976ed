"""Ship config/ and workflow/report/ inside the wheel, where hirl.config.resources finds them.

pyproject.toml holds everything else about the package.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("config", "workflow/report")


class BuildWithResources(build_py):
    """Build the package, and copy the folders it reads; an editable install reads the repository's own."""

    def run(self) -> None:
        """Build the modules, then copy the folders in place of those that an earlier build left."""
        super().run()
        if self.editable_mode:
            return
        for folder in SHIPPED:
            target = Path(self.build_lib, "hirl", "shipped", folder)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder, target)


setup(cmdclass={"build_py": BuildWithResources})
