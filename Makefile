# Four verbs. Each makes the environment it needs in .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/tools
	@echo "No trained model is in the repository yet: this makes a tiny random one, whose text is noise."
	$(BIN)/python tools/random_checkpoint.py tiny build/checkpoint
	$(BIN)/python tools/export_onnx.py build/checkpoint build/model
	$(BIN)/python demo.py build/model "Once upon a time" --max 40 --seed 1
	@echo "The same again with one layer in memory at a time:"
	$(BIN)/python demo.py build/model "Once upon a time" --max 40 --seed 1 --poolsize min

test: .venv/dev
	$(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build .pytest_cache .ruff_cache .mypy_cache

.venv/tools: requirements.txt tools/requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r tools/requirements.txt
	@touch $@

.venv/dev: .venv/tools requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
