"""Ships config/ and workflow/report/ inside the wheel, where hirl.config.resources finds them.

All else about the package stands in pyproject.toml.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("config", "workflow/report")


class BuildWithResources(build_py):
    """Builds the package, and copies the folders it reads; an editable install reads the repository's own."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if self.editable_mode:
            return
        for folder in SHIPPED:
            shutil.copytree(folder, Path(self.build_lib, "hirl", "shipped", folder), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithResources})
