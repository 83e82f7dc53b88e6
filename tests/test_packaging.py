"""What the package asks for is what the requirement files and the messages say."""

from __future__ import annotations

import tomllib

from helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(name: str) -> set[str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return {line for line in lines if line and not line.startswith("-r")}


def test_extras_are_what_the_requirement_files_say() -> None:
    extras = PROJECT["optional-dependencies"]
    assert set(extras["tools"]) == requirements("tools/requirements.txt")
    optional = {package for name, packages in extras.items() if name != "tools" for package in packages}
    assert optional <= requirements("requirements-dev.txt")


def test_readme_names_every_extra() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in PROJECT["optional-dependencies"])
