from setuptools import setup

# One extension serves every Python from 3.10 on: cffi builds it against the limited API, and the wheel's tag says so.
setup(cffi_modules=["native/build.py:ffibuilder"], options={"bdist_wheel": {"py_limited_api": "cp310"}})
