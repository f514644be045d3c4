"""The one part of the project that is compiled where it is installed; all else is told in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "serving.scorer.bytewise",
            ["serving/scorer/bytewise.pyx"],
            extra_compile_args=["-O3"],
            optional=True,  # without a C compiler large batches are read and scored value by value
        )
    ]
)
