"""What pyproject.toml cannot say: a build begins without what an earlier one has left in its folder.

setuptools packs all that is in ``build/lib``, so that ``pip install .`` from a checkout that was installed from before
would install modules that are gone since.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build import build


class FreshBuild(build):
    """As setuptools', in an empty folder."""

    def run(self) -> None:
        """Build."""
        if Path(self.build_base).resolve() in Path(self.build_lib).resolve().parents:  # not one that somebody named
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(cmdclass={"build": FreshBuild})
