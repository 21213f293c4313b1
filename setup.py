"""Which packages are installed, and under which names; all else is in pyproject.toml.

A checkout has the page in the folder `app`. Installed, a package of that name would
stand in the way of everybody else's `app`, so it is called `comigs_app` there. The
folder imports its own modules relatively, which works under both names.

setuptools puts into a wheel whatever an earlier build has left in its folder. A module
that was removed since would still be a command, so each build begins anew.
"""

import shutil

from setuptools import find_packages, setup

BUILD = "build/setuptools"
shutil.rmtree(BUILD, ignore_errors=True)

page = find_packages(include=["app", "app.*"])

setup(
    packages=[
        *find_packages(include=["comigs_mlx", "comigs_mlx.*"]),
        *(name.replace("app", "comigs_app", 1) for name in page),
    ],
    package_dir={"comigs_app": "app"},
    options={"build": {"build_base": BUILD}},
)
