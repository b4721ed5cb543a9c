"""setup: compiles standardize.pyx against the cbn that is installed; needs setuptools, Cython and cbn."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import cbn

extension = Extension("standardize", ["standardize.pyx"], include_dirs=[cbn.get_include()])
setup(name="standardize", version="0.1", ext_modules=cythonize([extension]))
