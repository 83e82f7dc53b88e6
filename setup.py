"""What pyproject.toml cannot say: all packages under llama_onnx, and models/demo as llama_onnx.models.demo."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["llama_onnx", "llama_onnx.*"]), "llama_onnx.models.demo"],
    package_dir={"llama_onnx.models.demo": "models/demo"},
)
