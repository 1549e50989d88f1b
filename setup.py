# SPDX-License-Identifier: Apache-2.0
"""Installs the folder configs/ as the package t1jax.configs, so that t1jax is the only name that is taken.

All else is in pyproject.toml, which cannot say this together with "find packages".
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["t1jax", "t1jax.*"]), "t1jax.configs"],
    package_dir={"t1jax.configs": "configs"},
)
