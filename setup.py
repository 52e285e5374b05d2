"""Which packages there are; everything else is in setup.cfg, which cannot list those found and one more."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["videofib", "videofib.*"]), "videofib.configs"],
    package_dir={"videofib.configs": "configs"},  # at the top of a checkout, a part of the package once it is built
    package_data={
        "videofib": ["py.typed"],
        "videofib.configs": ["*/*.yaml"],
        "videofib.models.pretrained": ["weights/*/*"],
    },
)
