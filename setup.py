"""What of the project is compiled where it is installed; all else is told in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            f"serving.scorer.{name}",
            [f"serving/scorer/{name}.pyx"],
            extra_compile_args=["-O3", "-g0"],
            depends=["serving/scorer/content.pxd"],
            optional=True,  # without a C compiler large batches are read and scored value by value
        )
        for name in ("jsonrows", "stringtable")
    ]
)
